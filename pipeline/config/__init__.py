"""Parameters: params.yaml, its schema, and error messages about wrong values."""

from pipeline.config.fold_params import fold_seed, part_params
from pipeline.config.load import Content, Params, Values, load_params, parameters, unknown_parameter

__all__ = ["Content", "Params", "Values", "fold_seed", "load_params", "parameters", "part_params", "unknown_parameter"]
