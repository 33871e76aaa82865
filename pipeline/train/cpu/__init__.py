"""What makes training on a CPU faster. Optional."""
