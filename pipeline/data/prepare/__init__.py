"""The prepared image set, made."""
