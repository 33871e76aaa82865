"""Several methods as one comparison: their spaces and one control, their plans, and their results in words."""
