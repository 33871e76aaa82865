"""Claims about rare classes: which ones are, and how they are named."""

import pytest

from pipeline.data.splits.imbalance import IMBALANCE, describe_imbalance

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((90, 30), "imbalanced: ant has 90 images (75.0 %), bee 30 (25.0 %)"),
        ((90, 31), None),
        ((29, 90, 30), "imbalanced: bee has 90 images (60.4 %), ant 29 (19.5 %), cat 30 (20.1 %)"),
        ((5, 5, 5), None),
        ((970, 30, 0), "imbalanced: ant has 970 images (97.0 %), bee 30 (3.0 %)"),  # who has none is no rare class
        ((100_000, 1), "imbalanced: ant has 100,000 images (100.0 %), bee 1 (0.001 %)"),
        (
            (900, 5, 300, 40, 7, 200),
            "imbalanced: ant has 900 images (62.0 %), bee 5 (0.34 %), eel 7 (0.48 %), dog 40 (2.8 %), and 2 more have a "
            "third of that or less",
        ),
        ((0, 0), None),
        ((), None),
    ],
)
def test_rare_classes_are_named_rarest_first_beside_the_largest(counts: tuple[int, ...], said: str | None) -> None:
    assert describe_imbalance(CLASSES[: len(counts)], counts) == said
    assert IMBALANCE == 3.0  # what the sentence calls a third


def test_names_of_any_kind_are_told_on_one_line() -> None:
    said = describe_imbalance(("a\nb", "x" * 5000), (90, 3))
    assert said is not None
    assert said.isprintable()
    assert len(said) < 200
