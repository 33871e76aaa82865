"""Parameters: params.yaml, its schema, and what is said of a value that is wrong."""

from pipeline.config.load import Params, load_params, parameters, unknown_parameter

__all__ = ["Params", "load_params", "parameters", "unknown_parameter"]
