"""Writes the prepared set: decodes a source on all cores into arrays and a manifest."""
