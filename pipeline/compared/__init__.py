"""Several methods as one comparison: their spaces and one control, their plans, what they came to, in words."""
