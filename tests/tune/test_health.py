"""The health of a search: of each finding a search that has it and one that has not, the sentences, and nasty records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.search_result import ALARM, REMARK, UNKNOWN, Finding
from pipeline.score.metrics.wording import ACCURACY_WORDS
from pipeline.tune.journal.image_scores import ImageScores, pack_scores
from pipeline.tune.journal.records import (
    COMPLETE,
    CONFIRMATION,
    CONTROL,
    CONTROL_STUDY,
    FAILED,
    METHOD,
    PRUNED,
    VAL_ACCURACY,
    TrialRecord,
)
from pipeline.tune.objectives.objectives import Objectives
from pipeline.tune.selection.findings import describe_findings
from pipeline.tune.selection.health import examine_search
from pipeline.tune.space import SearchSpace

WEIGHT, LAYERS, RATE = "regularizer.spatial_entropy.weight", "regularizer.spatial_entropy.layers", "train.lr"
AUROC = "val/attention/auroc"
NUMBER = {"type": "float", "low": 0.0, "high": 1.0}
CHOICES = {"type": "categorical", "choices": ["last", "last_two", "all"]}
SPACE = SearchSpace("space.yaml", {WEIGHT: NUMBER, LAYERS: CHOICES}, {"baseline": {WEIGHT: 0.0}})
EPOCHS, RUNG = 4, 2


def record(name: str, *curve: float, auroc: Sequence[float] = (), **about: Any) -> TrialRecord:
    """A run with this accuracy, and AUROC, by epoch."""
    number = int(name[1:5]) if name[1:].isdigit() else None
    found = TrialRecord(name, number, about.pop("values", {}), **{"state": COMPLETE, **about})
    found.epochs = {epoch: {VAL_ACCURACY: value} for epoch, value in enumerate(curve, 1)}
    for epoch, value in enumerate(auroc, 1):
        found.epochs[epoch][AUROC] = value
    return found


def trial(number: int, *curve: float, weight: float = 0.5, layers: str = "last", **about: Any) -> TrialRecord:
    return record(f"t{number:04d}", *curve, values={WEIGHT: weight, LAYERS: layers}, study=METHOD, **about)


def confirmed(of: str, *ends: float) -> list[TrialRecord]:
    """Confirmations with seeds 1001, 1002, ..., which end so."""
    return [
        record(f"{of}-seed{seed}", 0.1, end, end, end, role=CONFIRMATION, seed=seed, of=of)
        for seed, end in enumerate(ends, 1001)
    ]


def control(name: str, *ends: float) -> list[TrialRecord]:
    first, *further = ends
    return [record(name, 0.1, first, first, first, role=CONTROL), *confirmed(name, *further)]


def found(records: Sequence[TrialRecord], name: str, space: SearchSpace = SPACE, **about: Any) -> Finding | None:
    if "then" in about:
        about["objectives"] = Objectives(then=about.pop("then"))
    if "margin" in about:
        about["words"] = replace(ACCURACY_WORDS, margin=about.pop("margin"))
    (*findings,) = examine_search(records, space, about.pop("rungs", [RUNG]), **about)
    assert len({finding.name for finding in findings}) == len(findings)
    return next((finding for finding in findings if finding.name == name), None)


def alarm(records: Sequence[TrialRecord], name: str, **about: Any) -> bool:
    finding = found(records, name, **about)
    return finding is not None and finding.kind == ALARM


def spread_out(quality: Any, trials: int = 45, seed: int = 0, noise: float = 0.01) -> list[TrialRecord]:
    """Trials all over the space, each in full, of this quality by weight and layers."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(trials):
        weight, layers = (number + 0.5) / trials, CHOICES["choices"][int(rng.integers(3))]  # type: ignore[index]
        end = quality(weight, layers) + noise * rng.standard_normal()
        made.append(trial(number, 0.1, end - 0.1, end - 0.05, end, weight=weight, layers=layers))
    return made


def best_of(records: Sequence[TrialRecord]) -> TrialRecord:
    return max(records, key=lambda each: each.metric(VAL_ACCURACY))


STEP = {"last": 0.0, "last_two": 0.05, "all": 0.1}


def test_best_at_an_edge_towards_which_trials_get_better_is_found() -> None:
    records = spread_out(lambda weight, layers: 0.6 + 0.2 * weight + STEP[layers] / 10, trials=20)
    best = best_of(records)
    assert best.values[WEIGHT] > 0.9
    finding = found(records, "edge_of_range", best=best)
    assert finding is not None
    assert finding.seen.startswith(
        f"{WEIGHT} of {best.id} is 0.975, at the high end of its range (1), and {VAL_ACCURACY} "
    )
    assert finding.seen.endswith(" other trials).")
    assert "gets better towards it (rank correlation 0." in finding.seen
    assert finding.advice == f"Widen the range of {WEIGHT} above 1 in the space."
    lower = spread_out(lambda weight, layers: 0.8 - 0.2 * weight, trials=20, noise=0.002)
    finding = found(lower, "edge_of_range", best=best_of(lower))
    assert finding is not None
    assert finding.advice == f"Widen the range of {WEIGHT} below 0 in the space."


def test_best_at_an_edge_by_luck_alone_is_not_told() -> None:
    inside = spread_out(lambda weight, layers: 0.8 - 0.2 * (weight - 0.5) ** 2, trials=20)
    lucky = replace(trial(99, 0.1, 0.99, 0.99, 0.99, weight=0.99))
    assert found([*inside, lucky], "edge_of_range", best=lucky) is None
    rising = spread_out(lambda weight, layers: 0.6 + 0.2 * weight, trials=20)
    assert found(rising, "edge_of_range", best=rising[10]) is None
    assert found(rising, "edge_of_range", best=None) is None


def test_edge_is_on_the_scale_of_the_range_and_none_of_choices_or_two_values() -> None:
    log = SearchSpace("s.yaml", {WEIGHT: {"type": "float", "low": 0.001, "high": 1.0, "log": True}}, {})
    records = [
        record(f"t{n:04d}", 0.1, 0.5, 0.5, 0.5 + n / 100, values={WEIGHT: 10 ** (-3 + n / 7)}, study=METHOD)
        for n in range(22)
    ]
    records[-1].values[WEIGHT] = 0.6  # 93 % of the way
    assert alarm(records, "edge_of_range", space=log, best=records[-1])
    plain = SearchSpace("s.yaml", {WEIGHT: NUMBER}, {})
    assert not alarm(records, "edge_of_range", space=plain, best=records[-1])
    two = SearchSpace("s.yaml", {"train.batch_size": {"type": "int", "low": 16, "high": 32, "step": 16}}, {})
    records = [
        record(f"t{n:04d}", 0.1, 0.5, 0.5, 0.5 + n / 100, values={"train.batch_size": 16 + 16 * (n > 4)}, study=METHOD)
        for n in range(12)
    ]
    assert not alarm(records, "edge_of_range", space=two, best=records[-1])
    words = SearchSpace("s.yaml", {LAYERS: CHOICES}, {})
    records = [
        record(f"t{n:04d}", 0.1, 0.5, 0.5, 0.5 + n / 100, values={LAYERS: CHOICES["choices"][n % 3]}, study=METHOD)
        for n in range(12)
    ]
    assert not alarm(records, "edge_of_range", space=words, best=records[-1])


def test_parameter_without_effect_is_found_and_one_with_an_optimum_inside_is_not() -> None:
    records = spread_out(lambda weight, layers: 0.8 - 0.8 * (weight - 0.5) ** 2)
    finding = found(records, "no_effect")
    assert finding == Finding(
        "no_effect",
        f"{LAYERS} had no effect that 45 trials could show: on {VAL_ACCURACY} at epoch 2, {VAL_ACCURACY} at the end.",
        "Fix it in params.yaml and take it out of the space, or widen the range.",
    )
    both = spread_out(lambda weight, layers: 0.8 - 0.8 * (weight - 0.5) ** 2 + STEP[layers])
    assert found(both, "no_effect") is None


def test_parameter_with_an_effect_on_attention_alone_has_one() -> None:
    records = spread_out(lambda weight, layers: 0.8 - 0.8 * (weight - 0.5) ** 2)
    for each in records:
        for metrics in each.epochs.values():
            metrics[AUROC] = 0.6 + STEP[each.values[LAYERS]] + 1e-3 * metrics[VAL_ACCURACY]
    assert alarm(records, "no_effect")
    assert found(records, "no_effect", then=AUROC) is None


def test_no_parameter_with_an_effect_is_told_as_one() -> None:
    records = spread_out(lambda weight, layers: 0.8)
    finding = found(records, "no_effect", rungs=[])
    assert finding is not None
    assert finding.seen == f"No parameter had an effect that 45 trials could show: on {VAL_ACCURACY} at the end."
    assert finding.advice == "Widen the ranges, train longer, or take more validation images (split.val_fraction)."


def test_effects_are_not_examined_of_fewer_than_forty_trials() -> None:
    finding = found(spread_out(lambda weight, layers: 0.8, trials=39), "no_effect")
    assert finding == Finding("no_effect", "which parameters have an effect (39 trials, 40 are needed)", kind=UNKNOWN)


def ties(*ends: Sequence[float], trials: Sequence[float] = ()) -> list[TrialRecord]:
    """Confirmed configurations with their ends by seed, a control, and further trials that end so."""
    made = [trial(n, 0.1, first, first, first) for n, (first, *_) in enumerate(ends)]
    made += [run for n, (_, *further) in enumerate(ends) for run in confirmed(f"t{n:04d}", *further)]
    made += [trial(n, 0.1, end, end, end) for n, end in enumerate(trials, len(ends))]
    return [*made, *control("baseline", 0.5, 0.51, 0.49)]


NOISE = ((0.90, 0.92, 0.91), (0.91, 0.90, 0.92), (0.92, 0.91, 0.90))


def test_tie_of_confirmed_configurations_is_a_remark_and_of_all_trials_an_alarm() -> None:
    some = ties(*NOISE, trials=[0.3, 0.5, 0.7, 0.8])
    assert found(some, "tie") == Finding(
        "tie",
        f"The 3 confirmed configurations tie: their means of {VAL_ACCURACY} over 3 seeds, 0.9100 to 0.9100, differ no "
        "more than those of equal ones may by chance, so that luck chose among them.",
        kind=REMARK,
    )
    all_of_them = ties(*NOISE, trials=[0.91, 0.90, 0.92, 0.905])
    finding = found(all_of_them, "tie", then=AUROC)
    assert finding is not None
    assert finding.kind == ALARM
    assert finding.seen.endswith(f"may by chance. The same holds for all trials, so that {AUROC} chose among them.")
    assert finding.advice == "To have accuracy choose, take more seeds (search.confirm.seeds)."
    finding = found(all_of_them, "tie")
    assert finding is not None
    assert finding.advice.startswith("Choose among equals by search.choose.then, or take")


def test_configurations_that_differ_by_more_than_seeds_do_not_tie() -> None:
    assert found(ties((0.90, 0.92, 0.91), (0.81, 0.80, 0.82)), "tie") is None
    assert alarm(ties((0.9, 0.9, 0.9), (0.9, 0.9, 0.9), trials=[0.9]), "tie")  # to the last digit


def test_control_ahead_over_shared_seeds_is_found() -> None:
    ends = ((0.80, 0.82, 0.81), (0.81, 0.80, 0.82))
    records = [*ties(*ends), *control("paper", 0.95, 0.96, 0.94)]
    assert found(records, "control_ahead") == Finding(
        "control_ahead",
        f"The control paper is ahead of every trial: {VAL_ACCURACY} 0.9500 over 3 seeds, against 0.8100 of t0000, the best "
        "confirmed one, with the same seeds.",
        "Extend the space to lower weights, with which the regulariser does less harm, or try more trials.",
    )
    bare = SearchSpace("s.yaml", {RATE: NUMBER}, {})
    finding = found(records, "control_ahead", space=bare)
    assert finding is not None
    assert finding.advice == "Extend the space to the control's own values, or try more trials."


def test_control_that_is_ahead_with_one_seed_or_by_noise_is_not_told() -> None:
    lucky = [*ties(*NOISE), *control("paper", 0.99, 0.90, 0.91)]
    assert found(lucky, "control_ahead") is None
    assert found([*ties(*NOISE), *control("paper", 0.92, 0.915, 0.91)], "control_ahead") is None


def test_tuned_control_counts_as_a_control() -> None:
    tuned = record("c0003", 0.1, 0.95, 0.95, 0.95, values={RATE: 0.5}, study=CONTROL_STUDY)
    records = [*ties((0.80, 0.82, 0.81), (0.81, 0.80, 0.82)), tuned, *confirmed("c0003", 0.96, 0.94)]
    finding = found(records, "control_ahead")
    assert finding is not None
    assert finding.seen.startswith("The control c0003 is ahead of every trial")


def test_rungs_that_do_not_predict_the_end_are_found_from_eight_trials_in_full_on() -> None:
    ends = [0.50, 0.57, 0.52, 0.55, 0.51, 0.56, 0.53, 0.54, 0.58, 0.59]
    early = [0.31, 0.30, 0.33, 0.32, 0.35, 0.34, 0.30, 0.36, 0.31, 0.30]
    records = [trial(n, 0.1, a, a, b) for n, (a, b) in enumerate(zip(early, ends, strict=True))]
    finding = found(records, "rungs")
    assert finding == Finding(
        "rungs",
        f"Values at rungs predict the last epoch poorly: over 10 trials in full, the rank correlation of {VAL_ACCURACY} "
        "with its value at the last epoch is -0.40 at epoch 2.",
        "Make search.scheduler.grace_period longer than 2 epochs, or stop no trial early (search.scheduler.name: none).",
    )
    few = found(records[:7], "rungs")
    assert few == Finding("rungs", "whether rungs predict the end (7 trials in full, 8 are needed)", kind=UNKNOWN)
    assert found(records, "rungs", rungs=[]) is None
    for each, auroc in zip(records, ends, strict=True):
        for metrics in each.epochs.values():
            metrics[AUROC] = auroc
    assert found(records, "rungs", then=AUROC) is None  # by which they go on as well


def test_rungs_that_predict_are_not_told() -> None:
    records = [trial(n, 0.1, 0.3 + n / 100, 0.4 + n / 100, 0.5 + n / 100) for n in range(8)]
    assert found(records, "rungs") is None
    assert found(records, "rungs", rungs=[1, 2, 3]) is None  # of the median rule


def images(records: Sequence[TrialRecord], rights: Mapping[str, np.ndarray[Any, Any]]) -> ImageScores:
    correct = ImageScores()
    for each in records:
        if (flags := rights.get(each.of or each.id)) is not None:
            for epoch in each.epochs:
                correct.add(each.id, epoch, pack_scores(flags))
    return correct


def test_validation_set_that_is_too_small_for_the_differences_is_found() -> None:
    rng = np.random.default_rng(0)
    records = ties(*NOISE)
    rights = {name: rng.random(100) < 0.9 for name in ("t0000", "t0001", "t0002", "baseline")}
    finding = found(records, "validation_images", scores=images(records, rights), then=AUROC)
    assert finding is not None
    assert finding.kind == ALARM
    assert finding.seen.startswith(
        "100 validation images are too few for these differences: by the choice of images alone, two equal "
    )
    assert finding.seen.endswith(
        " points (a standard error), and the 3 confirmed ones differ by only 0.00 (a standard deviation)."
    )
    assert finding.advice == "Take more validation images (split.val_fraction)."
    # A margin that they can show, configurations that are further apart, or images that agree.
    assert found(records, "validation_images", scores=images(records, rights), margin=0.2) is None
    apart = ties((0.9, 0.92, 0.91), (0.5, 0.52, 0.51))
    assert found(apart, "validation_images", scores=images(apart, rights)) is None
    alike = dict.fromkeys(rights, rng.random(1000) < 0.9)
    assert found(records, "validation_images", scores=images(records, alike)) is None


def test_images_part_widens_what_counts_as_a_tie() -> None:
    rng = np.random.default_rng(0)
    records = ties((0.90, 0.92, 0.91), (0.93, 0.95, 0.94), trials=[0.9, 0.93])
    assert found(records, "tie") is None
    rights = {name: rng.random(60) < 0.6 for name in ("t0000", "t0001", "baseline")}
    finding = found(records, "tie", scores=images(records, rights))
    assert finding is not None
    assert finding.advice.endswith("more validation images (split.val_fraction).")


UNEXAMINED = [
    ("no_effect", "which parameters have an effect (0 trials, 40 are needed)"),
    ("tie", "whether configurations tie (two confirmed ones are needed)"),
    (
        "control_ahead",
        "whether a control is ahead (it and a configuration, confirmed with two further seeds, are needed)",
    ),
    ("rungs", "whether rungs predict the end (0 trials in full, 8 are needed)"),
    (
        "validation_images",
        "whether validation images are enough (two confirmed configurations are needed, image by image)",
    ),
    (
        "still_improving",
        "whether training was long enough (a run in full of two epochs is needed, image by image)",
    ),
]


def grown(*ends: tuple[float, float], images: int, **about: Any) -> tuple[list[TrialRecord], ImageScores]:
    """Controls with these accuracies in their last two epochs, and how many images they had."""
    records = [record(f"control{n}", 0.1, *pair, role=CONTROL, **about) for n, pair in enumerate(ends)]
    scores = ImageScores()
    for each in records:
        scores.add(each.id, each.last_epoch, pack_scores(np.zeros(images, dtype=bool)))
    return records, scores


def test_networks_that_still_improve_at_the_last_epoch_are_an_alarm() -> None:
    records, scores = grown((0.25, 0.37), (0.27, 0.39), images=2000)
    assert found(records, "still_improving", scores=scores) == Finding(
        "still_improving",
        f"The networks still improved at their last epoch: {VAL_ACCURACY} rose from 0.2600 to 0.3800 in it, as the mean "
        "over 2 runs in full.",
        "train.epochs may be too small for a verdict; raise it.",
    )


@pytest.mark.parametrize(
    ("ends", "images"),
    [
        ([(0.90, 0.905)], 100_000),  # half a point
        ([(0.90, 0.94), (0.90, 0.87)], 100_000),  # one did, the mean over both did not
        ([(0.30, 0.37)], 48),  # three images of 48
        ([(0.965, 0.976)], 287),
        ([(0.5, 0.4)], 2000),
    ],
)
def test_small_or_uncertain_gains_of_the_last_epoch_are_none(ends: list[tuple[float, float]], images: int) -> None:
    records, scores = grown(*ends, images=images)
    assert found(records, "still_improving", scores=scores) is None


def test_gain_that_the_choice_of_images_explains_is_an_alarm_in_one_of_a_hundred_searches() -> None:
    """Networks that answer every image by chance at both epochs, and so gain nothing, but on images of their own."""
    rng, images, alarms = np.random.default_rng(0), 200, 0
    for _ in range(2000):
        before, after = rng.random((2, images)) < 0.5
        records, scores = grown((float(before.mean()), float(after.mean())), images=images)
        alarms += found(records, "still_improving", scores=scores) is not None
    assert 0 < alarms <= 20 + 3 * math.sqrt(20)


def test_last_epoch_is_not_examined_without_two_epochs_or_images_or_runs_in_full() -> None:
    records, scores = grown((0.2, 0.6), images=2000)
    assert alarm(records, "still_improving", scores=scores)
    for others, theirs in (
        (records, ImageScores()),
        ([replace(records[0], state=PRUNED)], scores),
        ([replace(records[0], epochs={3: records[0].epochs[3]})], scores),
    ):
        finding = found(others, "still_improving", scores=theirs)
        assert finding is not None
        assert finding.kind == UNKNOWN


def test_one_trial_is_no_search_unless_the_space_has_one_configuration() -> None:
    one = [trial(0, 0.1, 0.5, 0.5, 0.5), *control("baseline", 0.5)]
    finding = found(one, "one_trial")
    assert finding is not None
    assert (finding.kind, finding.seen) == (ALARM, "One trial is no search: no other configuration was tried.")
    single = SearchSpace("s.yaml", {LAYERS: {"type": "categorical", "choices": ["last"]}}, {})
    assert found(one, "one_trial", space=single) is None
    assert found([*one, trial(1, 0.1, 0.4, state=PRUNED)], "one_trial") is None
    assert found(one[1:], "one_trial") is None


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record("baseline", 0.5, role=CONTROL)],
        [trial(n, state=FAILED, reason="out of memory") for n in range(50)],
        [trial(n, math.nan, math.nan, math.nan, math.nan, state=FAILED, reason="no room") for n in range(50)],
        [trial(n, state="infeasible") for n in range(50)],
    ],
    ids=["nothing", "a control alone", "all failed", "all NaN", "all infeasible"],
)
def test_search_without_results_is_said_not_to_be_examined(records: list[TrialRecord]) -> None:
    findings = examine_search(records, SPACE, [RUNG])
    assert [(finding.name, finding.seen) for finding in findings] == UNEXAMINED
    assert all(finding.kind == UNKNOWN and not finding.advice for finding in findings)
    (first, second) = describe_findings(findings)
    assert first == "Nothing was found that speaks against this search."
    assert second == f"Not examined: {'; '.join(seen for _, seen in UNEXAMINED)}."


@pytest.mark.parametrize(
    "records",
    [
        [trial(0, 0.1, 0.5, 0.5, 0.5)],
        [trial(n, 0.1, 0.5, 0.5, math.nan) for n in range(50)],
        [trial(n, 0.1, 0.5, state=PRUNED) for n in range(50)],
        [trial(n, 0.1, state=FAILED, reason="diverged: the loss is nan") for n in range(50)],
        [replace(trial(n, 0.1, 0.5, 0.5, 0.5), values={}) for n in range(50)],
        [replace(trial(n, 0.1, 0.5, 0.5, 0.5), values={WEIGHT: "much", LAYERS: None}) for n in range(50)],
        [trial(n, 0.1, 0.5, 0.5, 0.5) for n in range(50)],
        ties((0.9, math.nan, 0.9), (0.9, 0.9, 0.9)),
        [*ties(*NOISE), *(record(f"baseline-seed{s}", 0.5, role=CONFIRMATION, seed=s, of="gone") for s in (1, 2))],
    ],
    ids=[
        "one",
        "NaN at the end",
        "all stopped",
        "all diverged",
        "no values",
        "other values",
        "all the same",
        "NaN",
        "gone",
    ],
)
def test_nasty_records_are_looked_at_without_an_error(records: list[TrialRecord]) -> None:
    for best in (None, records[0]):
        for space in (SPACE, SearchSpace("s.yaml", {LAYERS: CHOICES}, {})):
            findings = examine_search(records, space, [RUNG], best=best, objectives=Objectives(then=AUROC))
            assert all(finding.seen for finding in findings)


def test_search_says_alarms_first_then_remarks_then_what_it_has_not_examined_and_the_same_twice() -> None:
    records = [*ties(*NOISE, trials=[0.3, 0.5, 0.7, 0.8]), *control("paper", 0.97, 0.98, 0.99)]
    findings = examine_search(records, SPACE, [RUNG])
    assert [finding.kind for finding in findings] == [ALARM, REMARK, *4 * [UNKNOWN]]
    assert findings == examine_search(records, SPACE, [RUNG])
    lines = describe_findings(findings)
    assert len(lines) == 3
    assert lines[0] == f"{findings[0].seen} {findings[0].advice}"
    assert lines[1] == findings[1].seen
    assert lines[2].startswith(
        "Not examined: which parameters have an effect (7 trials, 40 are needed); whether rungs "
    )
    assert describe_findings([]) == ["Nothing was found that speaks against this search."]
    assert describe_findings(None) == []


def test_warm_start_and_further_control_seeds_change_nothing() -> None:
    records = ties(*NOISE, trials=[0.3, 0.5, 0.7, 0.8])
    more = [*records, *confirmed("baseline", 0.5, 0.51, 0.49, 0.5, 0.5, 0.5)[2:]]
    assert examine_search(more, SPACE, [RUNG]) == examine_search(records, SPACE, [RUNG])
