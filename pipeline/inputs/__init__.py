"""From parameters to the data and the weights that they mean."""
