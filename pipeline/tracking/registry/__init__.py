"""Registered models: versions, aliases, packaging, loading."""
