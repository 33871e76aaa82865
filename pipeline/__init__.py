"""Search how much attention regularisation helps a Vision Transformer, and deliver the resulting model."""
