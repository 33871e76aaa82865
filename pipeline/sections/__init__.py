"""The sections of params.yaml, by what they are about: each parameter's type, default, bounds and a sentence."""
