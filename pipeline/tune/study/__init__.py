"""What to try next: Optuna studies asked and told, samplers, the Gaussian process, warm start."""
