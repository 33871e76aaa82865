"""The sections of params.yaml: type, default, bounds and purpose of every parameter."""
