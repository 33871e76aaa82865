"""Parameters of the parts of the procedure: each fold has seeds of its own."""

from pipeline.config.load import Params

SEEDS = 10_000
"""By so much the seeds of one fold lie above those of the one before: retraining and confirmations take fewer."""


def fold_seed(seed: int, number: int) -> int:
    """`base.seed` of a fold, counted from 1; 0: of all images."""
    return seed + SEEDS * number


def part_params(params: Params, number: int) -> Params:
    """The parameters of a fold, counted from 1; 0: of all images."""
    if not number:
        return params
    seed = fold_seed(params.base.seed, number)
    return params.with_values({"base.seed": seed}, where=f"evaluate.folds: the seeds of fold {number}")
