"""Claims about a search whose first objective is another one than val/accuracy: whatever goes by it goes by it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.scored_images import ByImages
from support.simulated_search import Search, told

from pipeline.artifacts.search_result import RungCorrelation
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.score.metrics.metric import LOG_LOSS, MACRO_F1
from pipeline.score.metrics.wording import ACCURACY_WORDS
from pipeline.score.pooled_error import pooled_error
from pipeline.state.searches import SearchState
from pipeline.tune.journal.records import (
    COMPLETE,
    CONFIRMATION,
    CONTROL,
    METHOD,
    SearchHistory,
    TrialRecord,
)
from pipeline.tune.objectives.objective_words import objective_words
from pipeline.tune.objectives.objectives import (
    LOSS,
    MAY_BE_FIRST,
    Objectives,
    check_objectives,
    describe_objectives,
    is_searched_for,
    metric_of,
    objective_of,
    objectives_from_params,
)
from pipeline.tune.objectives.trial_metrics import score_images
from pipeline.tune.schedulers.factory import make_scheduler
from pipeline.tune.schedulers.scheduler import Decision
from pipeline.tune.selection.candidates import ChoiceRule, choice_rule, rank_trials
from pipeline.tune.selection.choice import choose_best, describe_rule
from pipeline.tune.selection.health import examine_search
from pipeline.tune.selection.summary import rung_correlations
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import StudyAdapter
from pipeline.tune.study.warm_start import as_trials, results_from_search

F1 = "val/macro_f1"
LOSS_ALONE, F1_ALONE = Objectives((LOSS,)), Objectives((F1,))
LR = "train.lr"
SPACE = SearchSpace("space.yaml", {LR: {"type": "float", "low": 0.0, "high": 1.0}}, {"baseline": {LR: 0.5}})


def params(**settings: Any) -> Params:
    return Params().with_values({name.replace("__", "."): value for name, value in settings.items()}, where="test")


def trial(number: int | None, *, role: str = "trial", **values: Sequence[float]) -> TrialRecord:
    """A trial in full; values: by metric with `_` for `val/`, by epoch."""
    name = "baseline" if number is None else f"t{number:04d}"
    found = TrialRecord(name, number, {LR: 0.01 * (number or 0)}, state=COMPLETE, role=role)
    found.study = METHOD if number is not None else None
    for metric, curve in values.items():
        for epoch, value in enumerate(curve, 1):
            found.epochs.setdefault(epoch, {})[metric.replace("_", "val/", 1)] = value
    return found


# What may come first, and how it is called


def test_names_of_objectives_and_metrics_lead_to_each_other() -> None:
    given = params(evaluate__metric="mine:f")
    assert [metric_of(name, given) for name in MAY_BE_FIRST] == [
        *("accuracy", "log_loss", "balanced_accuracy", "macro_f1", "auroc", "mine:f"),
    ]
    assert all(objective_of(metric_of(name, given)) == name for name in MAY_BE_FIRST)
    assert is_searched_for(Params())
    assert is_searched_for(params(evaluate__metric="log_loss", search__objectives=[LOSS, "parameters"]))
    assert not is_searched_for(params(search__objectives=[F1]))


def test_the_words_of_the_first_objective_have_its_own_margin_or_that_of_the_evaluation() -> None:
    assert objective_words(params(evaluate__margin=0.03)) == replace(ACCURACY_WORDS, margin=0.03)
    assert objective_words(params(evaluate__metric="macro_f1", evaluate__margin=0.03)) == ACCURACY_WORDS
    assert objective_words(params(search__objectives=[F1], evaluate__margin=0.03)) == MACRO_F1.words
    asked = params(search__objectives=[LOSS], evaluate__metric="log_loss", evaluate__margin=0.03)
    assert objective_words(asked) == replace(LOG_LOSS.words, margin=0.03)


@pytest.mark.parametrize("first", MAY_BE_FIRST)
def test_any_metric_of_every_epoch_may_come_first(first: str) -> None:
    asked = params(search__objectives=[first], evaluate__metric="mine:f", search__choose__then="val/attention/auroc")
    check_objectives(asked)
    found = objectives_from_params(asked)
    assert (found.first, found.stopping_metrics) == (first, [first, "val/attention/auroc"])
    assert first not in found.shown_metrics
    assert found.directions == ["minimize" if first == LOSS else "maximize"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"search__objectives": ["val/attention/auroc"]},
            r"must begin with one of val/accuracy, val/loss, .*val/metric,",
        ),
        ({"search__objectives": ["parameters", "val/accuracy"]}, r"must begin with one of"),
        ({"search__objectives": [F1], "search__choose__then": F1}, r"choose\.then: val/macro_f1 is the first of"),
        ({"search__budget__target": 1.2}, r"search\.budget\.target: given 1\.2; val/accuracy, .* lies in 0 to 1"),
        ({"search__budget__target": 0.0}, r"search\.budget\.target: given 0;"),
        ({"search__budget__target": -0.1, "search__objectives": [LOSS]}, r"val/loss, .* is above 0"),
        ({"search__objectives": ["val/metric"], "evaluate__metric": "log_loss"}, r"or search for val/loss\."),
    ],
)
def test_what_cannot_come_first_or_be_reached_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_objectives(params(**settings))


def test_targets_are_in_the_unit_of_the_first_objective() -> None:
    check_objectives(params(search__objectives=[LOSS], search__budget__target=1.7))
    check_objectives(params(search__objectives=["val/metric"], evaluate__metric="mine:f", search__budget__target=-3.0))


def test_the_plan_says_what_is_searched_for_and_where_the_arms_are_compared_by_another() -> None:
    assert describe_objectives(Params()) == {}
    lines = describe_objectives(params(search__objectives=[LOSS]))
    assert lines["objective"] == "minimize val/loss"
    assert lines["metric"] == "the arms are compared by accuracy; a search for that: search.objectives: [val/accuracy]"
    assert "metric" not in describe_objectives(params(search__objectives=[F1], evaluate__metric="macro_f1"))
    asked = params(search__objectives=[LOSS])
    assert ", else by val/accuracy, among those whose mean log loss lies within 2 standard" in describe_rule(asked)
    assert describe_rule(asked).endswith(" of the lowest")
    assert describe_rule(params(search__objectives=[LOSS], search__choose__then="none")) == (
        "the lowest mean validation log loss over all seeds"
    )


# Schedulers and samplers


def test_a_search_for_loss_pauses_resumes_and_chooses_what_one_for_accuracy_does(tmp_path: Path) -> None:
    """The made-up loss is 1 - accuracy, so nothing that goes by the first objective may differ."""
    found = {}
    for first in ("val/accuracy", LOSS):
        search = Search(
            tmp_path / first.replace("/", "-"),
            {"search.objectives": [first], "search.choose.then": "none", "search.sampler.name": "random"},
            results=lambda record, epoch: round(1024 * accuracy_by_weight(record, epoch)) / 1024,  # 1 - it is exact
        )
        course = search.run(search__trials=12, search__budget__patience=6)
        found[first] = told(search.outcome), search.stopped, search.starts, len(course.journal.trials)
    assert found[LOSS] == found["val/accuracy"]
    states = [record[7] for record in found[LOSS][0]]
    assert states.count("pruned") > 1


def accuracy_by_weight(record: TrialRecord, epoch: int) -> float:
    weight = next(iter(record.values.values()))
    return 0.9 - 0.05 * (math.log10(weight + 1e-4) + 1) ** 2 - 0.2 / epoch


@pytest.mark.parametrize("name", ["asha", "asha_stopping", "median", "hyperband"])
def test_schedulers_are_told_what_is_better(name: str) -> None:
    """Of two trials the one with the lower loss goes on, whatever their accuracies are."""
    given = params(search__scheduler__name=name, search__scheduler__reduction_factor=2.0)
    scheduler = make_scheduler(given.search.scheduler, 8, 2, LOSS_ALONE.stopping_metrics)
    said = {}
    for number, loss in ((0, 0.3), (1, 0.5), (2, 0.6), (3, 0.7), (4, 0.8), (5, 0.1), (6, 0.9)):
        for epoch in (1, 2):
            gains = LOSS_ALONE.gains({LOSS: loss, "val/accuracy": loss})
            said[number] = scheduler.report(f"t{number:04d}", epoch, gains)
    assert said[5] is Decision.CONTINUE
    assert said[6] is (
        Decision.CONTINUE if name == "hyperband" else Decision.PAUSE if name == "asha" else Decision.STOP
    )


@pytest.mark.parametrize(("sampler", "trials"), [("local_gp", 24), ("tpe", 24), ("gp", 10)])
def test_samplers_propose_where_the_loss_is_low(sampler: str, trials: int) -> None:
    """Accuracy points to the other end of the range."""
    given = params(search__sampler__name=sampler, search__sampler__start="sobol")
    adapter = StudyAdapter(SPACE, given.search.sampler, seed=0, name="s", objectives=LOSS_ALONE, epochs=4)
    proposed = []
    for _ in range(trials):
        number, values = adapter.ask()
        rate = values[LR]
        proposed.append(rate)
        for epoch in (1, 4):
            loss = (rate - 0.2) ** 2 + 0.1 / epoch
            adapter.report(number, epoch, loss, {"val/accuracy": rate})
        adapter.tell(number, COMPLETE, loss, constraints={})
    assert np.median(np.abs(np.array(proposed[trials // 2 :]) - 0.2)) < 0.15


def test_target_and_patience_count_the_lowest_loss(tmp_path: Path) -> None:
    settings = {"search.objectives": [LOSS], "search.sampler.name": "random", "search.choose.then": "none"}
    search = Search(tmp_path / "a", settings, results=lambda record, epoch: 0.5 + 0.01 * (record.number or 0))
    search.run(search__trials=12, search__scheduler__name="none", search__budget__target=0.47)
    assert search.stopped == "search.budget.target: 0.4700 reached 0.47"
    assert sum(record.study == METHOD for record in search.outcome) == 4
    worse = Search(tmp_path / "b", settings, results=lambda record, epoch: 0.5 - 0.01 * (record.number or 0))
    worse.run(search__trials=12, search__scheduler__name="none", search__budget__patience=3)
    assert worse.stopped == "search.budget.patience: 3 trials in a row were no better"


# What is chosen


def test_trials_are_ranked_by_the_first_objective() -> None:
    trials = [trial(0, _accuracy=[0.9], _loss=[0.6]), trial(1, _accuracy=[0.8], _loss=[0.4]), trial(2, _loss=[0.4])]
    rule = choice_rule(params(search__objectives=[LOSS]))
    assert [each.id for each in rank_trials(trials, rule)] == ["t0001", "t0002", "t0000"]
    assert [each.id for each in rank_trials(trials[:2], ChoiceRule(1, 0))] == ["t0000", "t0001"]


@pytest.mark.parametrize("metric", [MACRO_F1, LOG_LOSS], ids=lambda metric: metric.name)
def test_equal_is_what_the_pseudo_values_do_not_tell_apart(metric: Any) -> None:
    """Against the pooled error of the pseudo-values and the means, restated here."""
    made = ByImages(metric=metric)
    first = objective_of(metric.name)
    objectives = Objectives((first,), then="val/accuracy")
    wide = replace(metric.words, margin=1.0)
    rule = ChoiceRule(top=4, seeds=2, objectives=objectives, within=1.0, words=wide)
    choice = choose_best(made.records, rule, made.scores)
    tables = np.array([made.tables[each.trial.id] for each in choice.candidates])
    assert len(choice.candidates) >= 2
    error = pooled_error(tables.astype(np.float32))
    assert choice.standard_error == pytest.approx(error, rel=1e-6)
    gains = metric.sign * tables.mean(axis=(1, 2))
    assert (np.diff(gains) <= 1e-6).all()  # the best first
    expected = [each.trial.id for each, gain in zip(choice.candidates, gains, strict=True) if gains[0] - gain <= error]
    assert list(choice.equal) == expected
    content = choice.result().content()
    assert content["metric"] == wide.content()
    assert metric.label in content["why"]
    assert content["decided_by"] == ("val/accuracy" if len(expected) > 1 else first)
    narrow = replace(rule, words=replace(metric.words, margin=1e-9))
    assert choose_best(made.records, narrow, made.scores).equal == (choice.candidates[0].trial.id,)


def test_trials_near_the_best_are_told_by_their_images() -> None:
    """Two whose pseudo-values are the same but on a few images are told apart where the others are not."""
    made = ByImages(configs=2, seeds=0)
    rule = ChoiceRule(top=2, seeds=0, objectives=Objectives((F1,), then="val/accuracy"), words=MACRO_F1.words)
    first, second = (np.float32(made.tables[f"t000{number}"][0]) for number in range(2))
    difference = np.float64(first) - np.float64(second)
    error = math.sqrt(((difference - difference.mean()) ** 2).sum() / (len(difference) - 1) / len(difference))
    behind = abs(made.records[0].metric(F1) - made.records[1].metric(F1))
    choice = choose_best(made.records, rule, made.scores)
    assert (len(choice.candidates) == 2) == (behind <= 2 * error)


def test_health_is_of_the_first_objective_in_its_direction() -> None:
    """A control of lower loss is ahead, one of higher loss is not, whatever the accuracies."""
    for loss, ahead in ((0.2, True), (0.8, False)):
        records = []
        for number in range(3):
            one = trial(number, _loss=[0.9, 0.5 + 0.01 * number], _accuracy=[0.5, 0.5])
            again = [
                replace(
                    one, id=f"{one.id}-seed{seed}", number=None, study=None, role=CONFIRMATION, seed=seed, of=one.id
                )
                for seed in (1001, 1002)
            ]
            records += [one, *again]
        control = trial(None, role=CONTROL, _loss=[0.9, loss], _accuracy=[0.1, 0.1])
        records += [control]
        records += [
            replace(
                control,
                id=f"baseline-seed{seed}",
                role=CONFIRMATION,
                seed=seed,
                of="baseline",
                epochs={2: {LOSS: loss + 0.001 * seed % 0.003}},
            )
            for seed in (1001, 1002)
        ]
        findings = examine_search(records, SPACE, [1], objectives=LOSS_ALONE, words=LOG_LOSS.words)
        found = next((each for each in findings if each.name == "control_ahead"), None)
        assert (found is not None) == ahead
        if found is not None:
            assert found.seen.startswith("The control baseline is ahead of every trial: val/loss 0.20")


def test_rungs_are_correlated_by_the_first_objective() -> None:
    trials = [trial(n, _loss=[0.1 * n, 0.1 * n], _accuracy=[0.1 * n, -0.1 * n]) for n in range(4)]
    assert rung_correlations(trials, [1], LOSS)["1"] == RungCorrelation(correlation=1.0, trials=4)
    assert rung_correlations(trials, [1])["1"] == RungCorrelation(correlation=-1.0, trials=4)


def test_status_names_the_best_by_the_first_objective(tmp_path: Path) -> None:
    history = SearchHistory(header={"content": {"objectives": [LOSS]}, "metric": LOG_LOSS.words.content()})
    history.trials = {
        each.id: each for each in (trial(0, _accuracy=[0.9], _loss=[0.6]), trial(1, _accuracy=[0.8], _loss=[0.4]))
    }
    state = SearchState(tmp_path, history, 0.0, None, frozenset())
    assert state.best is not None
    assert state.best.id == "t0001"
    assert state.words(Params()) == LOG_LOSS.words
    plain = SearchState(tmp_path, SearchHistory(), 0.0, None, frozenset())
    assert plain.words(params(evaluate__margin=0.05)).margin == 0.05


# What trials report


def test_images_count_for_their_pseudo_values_of_the_first_objective() -> None:
    rng = np.random.default_rng(0)
    labels, shares = rng.integers(3, size=40), rng.dirichlet(np.ones(3), size=40).astype(np.float32)
    data = SimpleNamespace(prepared=SimpleNamespace(labels=labels), split=SimpleNamespace(val=np.arange(40)))
    for metric in (MACRO_F1, LOG_LOSS):
        objectives = Objectives((objective_of(metric.name),))
        found = score_images(shares, data, objectives, Params())  # type: ignore[arg-type]
        assert found is not None
        assert np.array_equal(found, metric.pseudo_values_of(shares, labels))
        assert found.mean() == pytest.approx(metric.value_of(shares, labels), abs=1e-12)


# What is known beforehand


def history_of(first: str, epochs: dict[int, dict[str, float]], **content: Any) -> SearchHistory:
    about = {"space": {"parameters": SPACE.dimensions}, "train": {"epochs": 2}, **content}
    record = TrialRecord("t0000", 0, {LR: 0.3}, epochs=epochs, state=COMPLETE, study=METHOD)
    return SearchHistory(header={"content": about}, trials={"t0000": record})


def test_results_of_an_earlier_search_are_those_of_the_first_objective() -> None:
    asked = params(search__objectives=[LOSS], train__epochs=2)
    epochs = {1: {"val/accuracy": 0.1, LOSS: 2.0}, 2: {"val/accuracy": 0.2, LOSS: 1.5}}
    (found,) = results_from_search(history_of(LOSS, epochs), asked, SPACE, where="w")
    assert found["curve"] == [[1, 2.0], [2, 1.5]]
    (made,) = as_trials([found], SPACE, LOSS_ALONE)
    assert (made.value, made.intermediate_values) == (1.5, {1: 2.0, 2: 1.5})
    given = params(search__sampler__name="local_gp").search.sampler
    adapter = StudyAdapter(SPACE, given, seed=0, name="s", objectives=LOSS_ALONE, prior_trials=[made], epochs=2)
    assert adapter._local is not None
    assert adapter._local._curves[-1] == {LOSS: {1: -2.0, 2: -1.5}}


def test_a_search_that_did_not_measure_it_is_refused() -> None:
    asked = params(search__objectives=[F1], train__epochs=2)
    with pytest.raises(UserError, match=r"w: its trials have no val/macro_f1, which search\.objectives names"):
        results_from_search(history_of(F1, {1: {"val/accuracy": 0.1}}), asked, SPACE, where="w")
    mine = params(search__objectives=["val/metric"], train__epochs=2, evaluate__metric="mine:f")
    for theirs, said in ((None, "not measured"), ("mine:g", "mine:g")):
        content = {} if theirs is None else {"metric": theirs}
        history = history_of("val/metric", {2: {"val/metric": 0.1}}, **content)
        with pytest.raises(
            UserError, match=rf"w: its val/metric is {said}, but evaluate\.metric of this search is mine:f"
        ):
            results_from_search(history, mine, SPACE, where="w")
    same = history_of("val/metric", {2: {"val/metric": 0.1}}, metric="mine:f")
    assert results_from_search(same, mine, SPACE, where="w")
