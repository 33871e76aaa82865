"""Promotion of a version that has seen every image, by its procedure's predictions out of fold."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from support.registered_versions import IMAGES, LABELS, SPLIT, Place

from pipeline.errors import UserError
from pipeline.promotion import predictions
from pipeline.promotion.promote import describe_models
from pipeline.tracking.registry.champion import move_champion
from pipeline.tracking.registry.versions import versions
from pipeline.tracking.single_run import log_run


def folded(place: Place, wrong: Iterable[int] = (), *, holdout: int = 0, ids: Any = None, **tags: str) -> int:
    """A version that has seen every image, its procedure tested in folds: wrong on these of the images `ids`.

    holdout: so many of the test images were kept apart, on which it is wrong on the first, beside those.
    """
    place.folds = getattr(place, "folds", 0) + 1
    ids = np.arange(IMAGES) if ids is None else np.asarray(ids)
    said = LABELS[ids] ^ np.isin(ids, list(wrong))
    arrays: Any = {"best-seed1": np.eye(2, dtype=np.float32)[said] * 0.98 + 0.01}
    arrays["best-seed2"] = 1 - arrays["best-seed1"]
    if holdout:
        kept = SPLIT.test[:holdout]
        shares = np.eye(2, dtype=np.float32)[LABELS[kept] ^ np.isin(kept, [kept[0], *wrong])]
        arrays |= {"holdout": shares * 0.98 + 0.01, "holdout_ids": kept, "holdout_labels": LABELS[kept]}
    folder = place.workspace.root / f"folds-{place.folds}"
    folder.mkdir()
    np.savez(folder / "predictions.npz", ids=ids, labels=LABELS[ids], folds=ids % 5, **arrays)
    run = log_run(place.store, experiment=place.name, key=folder.name, name="e", params={}, metrics={}, artifacts={"": folder})  # fmt: skip
    procedure = json.dumps({"folds": 5, "images": len(ids), "folds_hash": "h", "holdout": holdout})
    known = {"sar.procedure": procedure, "sar.evaluation_run": run, "sar.split_hash": f"{place.folds}" * 64}
    return place.register([place.folds], **known | tags)


def test_version_that_has_seen_every_image_is_judged_out_of_fold_and_says_so(place: Place) -> None:
    folded(place, wrong=range(40, 60))
    lines = place.promote()
    assert "passed      accuracy: 95.0 % on 400 images out of fold, by the networks of 5 folds that its procedure made (it has seen them all)" in "\n".join(lines)  # fmt: skip
    assert json.loads(versions(place.store, place.name)[0].tags["sar.promoted.gate"])["accuracy_value"] == 0.95
    assert "test accuracy 0.9000 (mean over seeds); the mean is of its procedure, in folds" in "\n".join(
        describe_models(place.workspace)
    )


def test_two_procedures_are_compared_out_of_fold_image_by_image(place: Place) -> None:
    folded(place, wrong=range(40, 60))
    place.promote()
    folded(place, wrong=range(40, 44))
    lines = place.promote()
    assert lines[0].endswith("against version 1, by its predictions out of fold, of 5 folds")
    assert "+4.0 points against version 1 on the same 400 images" in "\n".join(lines)
    assert (place.champion, place.looks) == (2, [(1, sorted(place.hashes(1, 2)))])


def test_champion_that_was_tested_itself_is_compared_with_a_procedure_on_its_test_images(place: Place) -> None:
    place.register(wrong=range(40, 50))
    place.promote()
    folded(place, wrong=[*range(0, 20), 40, 41])
    lines = place.promote()
    assert lines[0].endswith("against version 1, as recorded when it was evaluated")
    assert "+2.2 points against version 1 on the same 360 images" in "\n".join(lines)
    assert "94.5 % on 400 images out of fold" in "\n".join(lines)
    assert place.champion == 2


def test_champion_with_a_procedure_is_compared_on_the_challengers_test_images(place: Place) -> None:
    folded(place, wrong=[*range(0, 20), *range(40, 50)])
    place.promote()
    place.register(wrong=[40, 41])
    lines = place.promote()
    assert lines[0].endswith("against version 1, by its predictions out of fold, of 5 folds")
    assert "+2.2 points against version 1 on the same 360 images" in "\n".join(lines)


@pytest.mark.parametrize("tags", [{"sar.data_hash": "e" * 64}, {"sar.retrain_folder": "best-seed9"}], ids=["other data", "lost"])  # fmt: skip
def test_champion_without_honest_predictions_is_not_compared_with_a_procedure(place: Place, tags: Any) -> None:
    place.register(wrong=range(40, 50), **tags)
    move_champion(place.store, place.name, 1, expected=None, reason=None)
    folded(place)
    said = place.refused()
    assert "is undecided; version 1 stays champion" in said
    assert "undecided   champion: version 2 is judged by its predictions out of fold, and for these images version 1 has no predictions by networks that had not seen them" in said  # fmt: skip
    assert "enough to decide would be a champion whose procedure was tested in folds too, or evaluate.holdout" in said
    assert place.looks == []


def test_predictions_out_of_fold_that_are_gone_are_not_made_anew(place: Place) -> None:
    folded(place, **{"sar.retrain_folder": "best-seed9"})
    with pytest.raises(UserError, match=r"out of fold that version 1 is judged by are gone, and it cannot be run in their place.*\n  run `dvc repro --single-item --force evaluate register`"):  # fmt: skip
        place.promote()


def test_images_kept_apart_are_what_a_version_and_its_champion_are_judged_on(place: Place) -> None:
    place.set(control="any", max_ece=None)
    folded(place, wrong=range(0, 40), holdout=360, **{"sar.split_hash": SPLIT.split_hash})
    lines = place.promote()
    assert "99.7 % on 360 images kept apart from its folds (evaluate.holdout), by the registered network" in "\n".join(
        lines
    )
    place.register(wrong=range(40, 42))
    place.set(control="any", max_ece=None, margin=0.05)
    lines = place.promote()
    assert lines[0].endswith("against version 1, as recorded when it was evaluated")
    assert "-0.3 points against version 1 on the same 360 images" in "\n".join(lines)


def test_tag_on_the_procedure_that_cannot_be_read_is_named(place: Place) -> None:
    folded(place, **{"sar.procedure": "{"})
    with pytest.raises(UserError, match=r"version 1 has a tag sar\.procedure that cannot be read"):
        predictions.is_judged_out_of_fold(versions(place.store, place.name)[0])
