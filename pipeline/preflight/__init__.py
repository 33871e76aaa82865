"""Validation and measurement before work starts: the plan of a run, dry runs, timed steps, the estimate."""
