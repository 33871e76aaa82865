"""What the command and the stages both do: the plan of a run, its identity, its progress, promotion."""
