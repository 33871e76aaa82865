"""Studies: Optuna studies that are asked and told, samplers, the Gaussian process, warm start."""
