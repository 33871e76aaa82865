"""Networks of timm, built by name, and taps that read what the regularisers and the attention scores need.

Imports inside this room are relative. The folder travels with every registered model and is loaded there
under another name (see `pipeline.tracking.registry.model`).
"""
