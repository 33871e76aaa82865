"""When a trial stops early."""
