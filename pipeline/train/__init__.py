"""Training, on torch alone. `fit` is a generator of epochs, which the search, retraining and single runs all use."""
