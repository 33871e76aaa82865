"""What decides among equals where params.yaml leaves it to the data: attention where enough images have masks."""

import numpy as np
import pytest

from pipeline.config import Params
from pipeline.data.prepared.prepared import Prepared
from pipeline.inputs.choice_metric import MIN_MASKED, explain_choice, has_masks_to_choose_by, resolve_choice
from pipeline.provenance.fingerprint import fingerprint_content
from pipeline.tune.objectives.objectives import AUROC, LOSS, Objectives, objectives_from_content, objectives_from_params


def masks(usable: int, others: int, *, other: int = 0) -> np.ndarray:
    """Masks of which so many hold object and background, and the others one value alone."""
    found = np.full((usable + others, 4, 4), other, dtype=np.uint8)
    found[:usable] = 0
    found[:usable, :2] = 1
    return found


def prepared(given: np.ndarray | None) -> Prepared:
    count = 1000 if given is None else len(given)
    return Prepared(np.zeros((count, 4, 4, 1), np.uint8), np.zeros(count, np.int64), given, {"data_hash": "d"})


@pytest.mark.parametrize("other", [0, 1, 255])
@pytest.mark.parametrize(("usable", "expected"), [(MIN_MASKED, AUROC), (MIN_MASKED - 1, LOSS), (0, LOSS)])
def test_attention_decides_where_enough_validation_images_have_a_usable_mask(
    usable: int, expected: str, other: int
) -> None:
    data = prepared(masks(usable, 900, other=other))
    order = np.random.default_rng(0).permutation(len(data.labels))  # the usable ones anywhere
    assert resolve_choice(Params(), data, order).search.choose.then == expected


def test_masks_of_other_roles_do_not_count() -> None:
    data = prepared(masks(500, 500))
    assert resolve_choice(Params(), data, np.arange(500, 1000)).search.choose.then == LOSS
    assert resolve_choice(Params(), prepared(None), np.arange(500)).search.choose.then == LOSS


def test_it_looks_no_further_than_it_must() -> None:
    class Counted:
        seen = 0

        def __getitem__(self, ids: np.ndarray) -> np.ndarray:
            self.seen += len(ids)
            return masks(len(ids), 0)

    counted = Counted()
    assert has_masks_to_choose_by(counted, np.arange(100_000))  # type: ignore[arg-type]
    assert counted.seen <= 256


def test_reason_for_the_metric_is_told_with_the_number_of_usable_masks() -> None:
    few, params = prepared(masks(48, 12)), Params()
    assert explain_choice(params, few, np.arange(60)) == (
        "48 of the 60 validation images have a mask with object and background; from 50 on, val/attention/auroc decides"
    )
    assert explain_choice(params, prepared(masks(60, 12)), np.arange(72)) == (
        "at least 50 of the 72 validation images have a mask with object and background"
    )
    assert explain_choice(params, prepared(None), np.arange(60)) == "the set has no masks"
    named = params.with_values({"search.choose.then": LOSS}, where="here")
    assert explain_choice(named, few, np.arange(60)) == ""


def test_what_the_user_names_stays() -> None:
    for then in ("none", "val/loss", "latency_ms", AUROC):
        params = Params().with_values({"search.choose.then": then}, where="here")
        assert resolve_choice(params, prepared(masks(500, 0)), np.arange(500)) == params


def content(then: str, **values: object) -> dict[str, object]:
    params = Params().with_values({"search.choose.then": then, **values}, where="here")
    return fingerprint_content(params, {}, data_hash="d", split_hash="s")


def test_metric_that_trials_measure_or_go_on_by_is_part_of_the_fingerprint_and_no_other() -> None:
    before = content("auto")
    assert "then" not in before
    assert content("none") == content(LOSS) == content("val/accuracy") == before
    assert content(AUROC) == before | {"then": AUROC}
    assert content("latency_ms") == before | {"then": "latency_ms"}
    assert content(AUROC, **{"search.choose.within": 1.0, "evaluate.margin": 0.05}) == content(AUROC)


def test_objectives_know_the_metric_from_parameters_and_from_a_journal() -> None:
    named = Params().with_values({"search.choose.then": AUROC}, where="here")
    assert objectives_from_params(named) == Objectives(then=AUROC) == objectives_from_content(content(AUROC))
    assert objectives_from_params(named).metrics == [AUROC]
    assert objectives_from_params(named).stopping_metrics == ["val/accuracy", AUROC]
    loss = objectives_from_params(Params().with_values({"search.choose.then": LOSS}, where="here"))
    assert (loss.metrics, loss.stopping_metrics) == ([], ["val/accuracy"])
    assert objectives_from_params(Params()).then is None
