"""Training of several networks of one configuration as a stack, each with its own seed, in one process."""
