"""The stage that registers the retrained model in the MLflow registry."""
