"""What to try next: Optuna studies and samplers."""
