"""Search how much attention regularisation helps a Vision Transformer, and deliver the model that came out."""
