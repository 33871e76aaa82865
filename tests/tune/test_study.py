"""Claims about the study: proposals are decided by the seed and the results, however often a search is broken off."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.config.schema.search_section import SamplerParams
from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, FAILED, MIN_COMPLETED, PRUNED, TrialRecord
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import EMPTY_SHARE, StudyAdapter

LR, LAYERS, BATCH = "train.lr", "regularizer.spatial_entropy.layers", "train.batch_size"
SPACE = SearchSpace(
    "space.yaml",
    {
        LR: {"type": "float", "low": 0.001, "high": 1.0, "log": True},
        LAYERS: {"type": "categorical", "choices": ["last", [0, 1], "all"]},
        BATCH: {"type": "int", "low": 8, "high": 64},
    },
    {"baseline": {LR: 0.1}},
)


def proposer(*, sampler: str = "tpe", seed: int = 0, startup_trials: int = 3) -> StudyAdapter:
    params = SamplerParams(name=sampler, startup_trials=startup_trials)
    return StudyAdapter(SPACE, params, seed=seed, name="abc")


def accuracy(values: dict[str, Any], epoch: int = 4) -> float:
    """A made-up result: best at a rate of 0.03 with all layers, and better with every epoch."""
    return 0.9 - 0.1 * (math.log10(values[LR]) + 1.5) ** 2 - 0.05 * (values[LAYERS] != "all") - 0.2 / epoch


def play(study: StudyAdapter, count: int) -> list[TrialRecord]:
    """Proposals one after the other, the third stopped after two epochs and the fifth failed after one."""
    records = []
    for _ in range(count):
        number, values = study.ask()
        record = TrialRecord(f"t{number:04d}", number, values)
        record.state = {2: PRUNED, 4: FAILED}.get(number, COMPLETE)
        for epoch in range(1, {2: 2, 4: 1}.get(number, 4) + 1):
            record.epochs[epoch] = {"val/accuracy": accuracy(values, epoch)}
            study.report(number, epoch, record.epochs[epoch]["val/accuracy"])
        end(study, record)
        records.append(record)
    return records


def end(study: StudyAdapter, record: TrialRecord) -> None:
    assert record.number is not None
    assert record.state is not None
    constraints = {EMPTY_SHARE: 0.01 * record.number - 0.03}
    study.tell(record.number, record.state, record.metric("val/accuracy"), constraints=constraints)


def rebuilt(records: list[TrialRecord], **settings: Any) -> StudyAdapter:
    """A study made of records, as the search does on resuming: all trials first, then their epochs, then their ends."""
    study = proposer(**settings)
    for record in records:
        study.replay(record)
    for epoch in range(1, 5):
        for record in records:
            if epoch in record.epochs:
                assert record.number is not None
                study.report(record.number, epoch, record.epochs[epoch]["val/accuracy"])
    for record in records:
        if record.state is not None:
            end(study, record)
    return study


def settings_of(records: list[TrialRecord]) -> list[dict[str, Any]]:
    return [record.values for record in records]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_same_seed_gives_the_same_proposals_and_another_seed_others(sampler: str) -> None:
    first = settings_of(play(proposer(sampler=sampler), 8))
    assert settings_of(play(proposer(sampler=sampler), 8)) == first
    assert settings_of(play(proposer(sampler=sampler, seed=1), 8)) != first


def test_proposals_are_within_the_space_and_all_different() -> None:
    values = settings_of(play(proposer(), 8))
    for value in values:
        assert value.keys() == {LR, LAYERS, BATCH}
        assert 0.001 <= value[LR] <= 1.0
        assert value[LAYERS] in ("last", [0, 1], "all")
        assert isinstance(value[BATCH], int)
        assert 8 <= value[BATCH] <= 64
    assert len({value[LR] for value in values}) == 8


def test_tpe_learns_from_results_and_random_does_not() -> None:
    def second_half(sampler: str, sign: float) -> list[dict[str, Any]]:
        study, values = proposer(sampler=sampler), []
        for _ in range(8):
            number, proposed = study.ask()
            values.append(proposed)
            study.tell(number, COMPLETE, sign * accuracy(proposed), constraints={})
        assert len({value[LR] for value in values[:3]}) == 3
        return values[3:]

    assert second_half("tpe", 1.0) != second_half("tpe", -1.0)
    assert second_half("random", 1.0) == second_half("random", -1.0)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("done", [1, 3, 5, 7])
def test_study_rebuilt_from_records_goes_on_as_the_unbroken_one(done: int, sampler: str) -> None:
    unbroken = play(proposer(sampler=sampler), 8)
    again = play(rebuilt(unbroken[:done], sampler=sampler), 8 - done)
    assert [record.number for record in again] == list(range(done, 8))
    assert settings_of(again) == settings_of(unbroken[done:])


def test_search_extended_from_4_to_8_proposes_what_8_at_once_do() -> None:
    at_once = play(proposer(), 8)
    first = play(proposer(), 4)
    second = play(rebuilt(first), 4)
    assert settings_of(first + second) == settings_of(at_once)


def test_study_rebuilt_with_a_trial_still_running_proposes_the_same_next() -> None:
    def asked_while_one_runs(study: StudyAdapter, running: int) -> dict[str, Any]:
        _, values = study.ask()
        study.report(running, 2, 0.5)
        return values

    unbroken = proposer()
    records = play(unbroken, 5)
    number, values = unbroken.ask()
    unbroken.report(number, 1, 0.3)
    running = TrialRecord("t0005", number, values, epochs={1: {"val/accuracy": 0.3}})
    expected = asked_while_one_runs(unbroken, 5)
    assert asked_while_one_runs(rebuilt([*records, running]), 5) == expected


def test_restoring_out_of_order_is_told() -> None:
    records = play(proposer(), 2)
    with pytest.raises(UserError, match="the journal of the search has no trial 0"):
        proposer().replay(records[1])


def test_epoch_reported_again_is_ignored(tmp_path: Path) -> None:
    study = proposer()
    number, _ = study.ask()
    for value in (0.25, 0.75):
        study.report(number, 1, value)
    study.tell(number, PRUNED, 0.25, constraints={})
    assert saved(study, tmp_path)[0].intermediate_values == {1: 0.25}


def saved(study: StudyAdapter, folder: Path) -> list[optuna.trial.FrozenTrial]:
    path = folder / "study.db"
    study.save(path)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    trials = optuna.load_study(study_name="abc", storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return trials


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[TrialRecord], list[optuna.trial.FrozenTrial]]:
    """Eight trials, and what optuna reads of them in the file that the study was saved to."""
    study = proposer()
    records = play(study, 8)
    return records, saved(study, tmp_path_factory.mktemp("study"))


def test_saved_study_holds_the_same_trials(played: Any) -> None:
    records, trials = played
    assert [trial.number for trial in trials] == list(range(8))
    assert [SPACE.decode(trial.params) for trial in trials] == settings_of(records)
    for record, trial in zip(records, trials, strict=True):
        expected = {epoch: metrics["val/accuracy"] for epoch, metrics in record.epochs.items()}
        assert trial.intermediate_values == pytest.approx(expected)


def test_completed_trial_is_told_with_its_last_value(played: Any) -> None:
    records, trials = played
    for number in (0, 1, 3, 5, 6, 7):
        assert trials[number].state == TrialState.COMPLETE
        assert trials[number].value == pytest.approx(records[number].epochs[4]["val/accuracy"])


def test_stopped_trial_is_told_as_pruned_with_its_intermediate_values(played: Any) -> None:
    _, trials = played
    assert trials[2].state == TrialState.PRUNED
    assert list(trials[2].intermediate_values) == [1, 2]


def test_failed_trial_is_told_as_failed_without_a_value(played: Any) -> None:
    _, trials = played
    assert trials[4].state == TrialState.FAIL
    assert trials[4].value is None
    assert list(trials[4].intermediate_values) == [1]


def test_saved_study_holds_the_constraint_of_every_trial(played: Any) -> None:
    _, trials = played
    for number in (0, 1, 2, 4, 7):
        kept = [value for key, value in trials[number].system_attrs.items() if key.endswith(f":{EMPTY_SHARE}")]
        assert kept == [pytest.approx(0.01 * number - 0.03)]


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    study = proposer(sampler="random")
    (tmp_path / "study.db").write_text("an old one")
    (tmp_path / "study.db.partial").write_text("a torn one")
    play(study, 2)
    assert len(saved(study, tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_setting_with_too_many_empty_maps_is_avoided_by_the_next_proposals() -> None:
    def share_of_all(constrained: bool) -> int:
        study, count = proposer(startup_trials=4), 0
        for _ in range(16):
            number, values = study.ask()
            count += values[LAYERS] == "all"
            amount = 0.5 if constrained and values[LAYERS] == "all" else -0.05
            study.tell(number, COMPLETE, accuracy(values), constraints={EMPTY_SHARE: amount})
        return count

    assert share_of_all(constrained=True) < share_of_all(constrained=False)


def test_importances_are_shares_of_every_dimension_once_enough_trials_completed() -> None:
    study = proposer(sampler="random")
    play(study, MIN_COMPLETED + 1)  # of which two do not complete
    assert study.importances() == {}
    play(study, 1)
    shares = study.importances()
    assert shares.keys() == {LR, LAYERS, BATCH}
    assert sum(shares.values()) == pytest.approx(1.0)


def test_importances_of_equal_results_are_not_told() -> None:
    study = proposer(sampler="random")
    for _ in range(MIN_COMPLETED):
        number, _ = study.ask()
        study.tell(number, COMPLETE, 0.5, constraints={})
    assert study.importances() == {}
