"""What a stage leaves, and the next one reads."""
