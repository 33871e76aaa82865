"""Terminal and log output: formats of values, and progress of long work."""
