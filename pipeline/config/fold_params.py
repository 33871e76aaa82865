"""Parameters of the parts of the procedure: each fold has seeds of its own."""

from pipeline.config.load import Params

SEEDS = 10_000
"""Distance between the seeds of two folds. Retraining and confirmations need fewer seeds than this."""


def fold_seed(seed: int, number: int) -> int:
    """Returns `base.seed` of a part of the procedure.

    Args:
        seed: `base.seed` of params.yaml.
        number: Number of the fold, from 1; 0 for the part of all images.
    """
    return seed + SEEDS * number


def part_params(params: Params, number: int) -> Params:
    """Returns the parameters of a part of the procedure.

    Args:
        params: Parameters of params.yaml.
        number: Number of the fold, from 1; 0 for the part of all images.
    """
    if not number:
        return params
    seed = fold_seed(params.base.seed, number)
    return params.with_values({"base.seed": seed}, where=f"evaluate.folds: the seeds of fold {number}")
