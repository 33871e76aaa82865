"""Promotion by another metric than accuracy."""

import numpy as np
import pytest
from support.registered_versions import Place

from pipeline.promotion import predictions


@pytest.mark.parametrize("recorded", [True, False])
def test_by_another_metric_the_champions_probabilities_are_compared(place: Place, recorded: bool) -> None:
    """Its predictions as recorded, or made anew, of which what is kept is enough the next time."""
    place.register(wrong=range(40, 50), file=recorded)
    place.promote()
    place.set(metric="balanced_accuracy")
    place.register(wrong=range(40, 42))
    lines = "".join(place.promote(dry_run=True))
    assert (
        "passed      balanced accuracy: 99.4 % on 360 test images, by the registered network; needed: higher than 50.0 %, the value"
        in lines
    )
    assert "+2.2 points in balanced accuracy against version 1 on the same 360 images (95 % interval" in lines
    assert "".join(place.promote(dry_run=True)).partition("champion:")[2] == lines.partition("champion:")[2]
    place.set(metric="log_loss")
    place.promote(dry_run=True)
    place.set(metric="auroc", min_metric=1.0)
    assert "failed      AUROC: 0.99" in place.refused(dry_run=True)


def test_what_was_kept_of_right_alone_is_not_enough_for_another_metric(place: Place) -> None:
    place.register(wrong=range(40, 50), file=False)
    place.promote()
    place.register(wrong=range(40, 42))
    place.promote(dry_run=True)
    (kept,) = (place.workspace.state / "promote").glob("*.npz")
    with np.load(kept) as archive:
        shares = archive["probabilities"]
        of_earlier = {name: archive[name] for name in ("ids", "correct")}
    assert shares.shape == (360, 2)
    np.savez(kept, **of_earlier)
    place.set(metric="macro_f1")
    assert "in macro-F1 against version 1" in "".join(place.promote(dry_run=True))
    with np.load(kept) as archive:
        np.testing.assert_allclose(archive["probabilities"], shares, atol=1e-6)


def test_probabilities_are_by_name_and_of_the_classes_of_the_data() -> None:
    answers = [{"b": 0.2, "a": 0.3, "gone": 0.5}, {"gone": 1.0}, {"a": 1.0}]
    np.testing.assert_allclose(
        predictions._shares(answers, ["a", "b", "new"]), [[0.6, 0.4, 0], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0]], atol=1e-6
    )
