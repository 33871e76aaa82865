"""The stage that registers the retrained model in MLflow's model registry, as alias challenger."""
