"""Registered models: packaging, versions, aliases, loading, export."""
