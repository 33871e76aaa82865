"""Moves the alias champion: the gate that a challenger must pass, the paired test behind it, and rollback."""
