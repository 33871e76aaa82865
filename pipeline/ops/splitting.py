"""The split that the parameters ask for."""

from pipeline.config import Params
from pipeline.data.splits import Split, make_split
from pipeline.data.store import Prepared


def split_of(params: Params, prepared: Prepared) -> Split:
    """Roles of a prepared set's images.

    Raises:
        UserError: a class with too few images to be in every role; test classes that train never has.
    """
    return make_split(
        prepared.labels,
        val_fraction=params.split.val_fraction,
        test_fraction=params.split.test_fraction,
        seed=params.base.seed,
        train_fraction=params.split.train_fraction,
        own_test=prepared.test,
        classes=prepared.classes,
    )
