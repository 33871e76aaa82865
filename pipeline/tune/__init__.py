"""The search: Ray Tune runs trials, Optuna proposes settings, the ledger remembers. Both live here and nowhere else."""
