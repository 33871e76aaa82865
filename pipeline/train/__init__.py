"""Training: torch only. `fit` is a generator of epochs that the search, retraining and single runs all drive."""
