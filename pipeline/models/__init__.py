"""Networks: built by timm name, and tapped for what the regularisers and the attention scores need.

Imports inside this room are relative: the folder travels with every registered model and is loaded there under
another name (see `pipeline.tracking.registry.model`).
"""
