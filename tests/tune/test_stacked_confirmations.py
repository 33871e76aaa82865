"""Claims about confirmations that one worker trains together: every record is that of a single run."""

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict
from support.simulated_search import Clock, Search, accuracy, told

from pipeline.cluster.connect import Capacity
from pipeline.tune.controller import SearchController
from pipeline.tune.journal.records import COMPLETE, FAILED, read_history
from pipeline.tune.ray import callback as module
from pipeline.tune.ray.callback import JournalCallback
from pipeline.tune.ray.controller_scheduler import ControllerScheduler
from pipeline.tune.ray.searcher import QueueSearcher
from pipeline.tune.stacks import StackSizes

NOBODY: Any = None
SETTINGS = {"search.confirm.seeds": 3, "search.confirm.top": 1, "search.scheduler.name": "none", "search.trials": 2}
FIRST = "baseline-seed1001"
CONTROLS = [f"baseline-seed{seed}" for seed in (1001, 1002, 1003)]

Fate = Callable[[dict[str, Any], str, int], Any]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(module, "address_of", str)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path, SETTINGS)


def goes_on(config: dict[str, Any], name: str, epoch: int) -> None:
    """What becomes of a run at an epoch. Else: why it fails; or a mapping, a report that gives the stack back."""


class Ray:
    """Ray's loop and its workers, one trial of Ray's after the other. at: epoch after which the driver dies."""

    def __init__(self, course: SearchController, place: Path, fate: Fate = goes_on, clock: Clock | None = None) -> None:
        self.course, self.place, self.fate, self.clock = course, place, fate, clock
        self.callback = JournalCallback(course)
        self.searcher = QueueSearcher(course, self.callback, None)
        self.scheduler = ControllerScheduler(course, self.callback)
        self.groups: list[list[str]] = []
        self.configs: list[dict[str, Any]] = []

    def run(self, *, die_after: int | None = None) -> None:
        epochs = itertools.count(1)
        while (config := self.searcher.suggest("")) != Searcher.FINISHED:
            assert config is not None, "waits for what never ends"
            self.configs.append(config)
            self.groups.append([run["trial"] for run in config.get("stack", [config])])
            for _ in self.train(config):
                if next(epochs) == die_after:
                    return

    def train(self, config: dict[str, Any]) -> Iterator[None]:
        trial: Any = SimpleNamespace(config=config, last_result={})
        runs = config.get("stack", [config])
        for epoch in itertools.count(1 + max(epoch_of(run["checkpoint"]) for run in runs)):
            if self.clock is not None:
                self.clock.now += 6.0
            fates = {run["trial"]: self.fate(config, run["trial"], epoch) for run in runs}
            if len({epoch_of(run["checkpoint"]) for run in config.get("stack", ())}) > 1:
                fates = {FIRST: {"size": 1, "why": "their checkpoints are of different epochs"}}
            given_back = next((fate for fate in fates.values() if isinstance(fate, Mapping)), None)
            if given_back is not None:
                report: dict[str, Any] = {"epoch": 0, "metrics": {}, "failed": "apart", "apart": given_back}
            else:
                reports = [self.report(name, epoch, why) for name, why in fates.items()]
                stacked = {"epoch": epoch, "objective": math.nan, "metrics": {}, "failed": None, "stack": reports}
                report = stacked if "stack" in config else reports[0]
                runs = [run for run in runs if fates[run["trial"]] is None]
            word = self.scheduler.on_trial_result(NOBODY, trial, flatten_dict(report))
            self.callback.on_trial_result(1, [], trial, report)
            trial.last_result = report
            if runs and given_back is None:
                folder = self.place / config["folder"] / f"checkpoint_{epoch:06d}"
                for run in runs:
                    (folder / run["trial"] if "stack" in config else folder).mkdir(parents=True)
                self.callback.on_checkpoint(1, [], trial, folder)
            if word == TrialScheduler.STOP:
                self.callback.on_trial_complete(1, [], trial)
                return
            yield

    def report(self, name: str, epoch: int, failed: str | None) -> dict[str, Any]:
        value = accuracy(self.course.journal.trials[name], epoch)
        metrics = {} if failed else {"val/accuracy": value, "val/loss": 1 - value}
        common = {"trial": name, "epoch": epoch, "metrics": metrics, "failed": failed}
        return common | {"objective": value, "scores": None, "usage": {}, "node": None}


def epoch_of(checkpoint: str | None) -> int:
    """Epochs of a checkpoint: one of a single run, or a member's part of a stack's."""
    names = [part for part in (checkpoint or "").split("/") if part.startswith("checkpoint_")]
    return int(names[-1].removeprefix("checkpoint_")) if names else 0


def searched(search: Search, together: int | None, fate: Fate = goes_on, **given: Any) -> Ray:
    """A session to its end, or to the driver's."""
    die_after = given.pop("die_after", None)
    clock = given.pop("clock", None)
    with search.session(search__confirm__seeds_per_worker=together, **given) as course:
        start = len(list(search.folder.glob("ray/*")))
        ray = Ray(course, search.folder / "ray" / f"start-{start}", fate, clock)
        ray.run(die_after=die_after)
        assert die_after is not None or course.num_running == 0
    return ray


def test_stacks_leave_the_records_of_single_runs_and_tell_of_each(tmp_path: Path) -> None:
    alone, together = Search(tmp_path / "alone", SETTINGS), Search(tmp_path / "together", SETTINGS)
    assert {len(group) for group in searched(alone, 1).groups} == {1}
    ray = searched(together, 2)
    best = alone.ids[-1].partition("-")[0]
    names = [f"{best}-seed{seed}" for seed in (1001, 1002, 1003)]
    assert ray.groups[3:] == [CONTROLS[:2], CONTROLS[2:], names[:2], names[2:]]
    assert told(together.outcome) == told(alone.outcome)
    for name in (*CONTROLS, *names):
        assert together.heard.of(name) == alone.heard.of(name)


def test_default_on_a_cpu_gives_each_confirmation_a_worker_and_a_configuration_as_before(search: Search) -> None:
    ray = searched(search, None)
    assert all("stack" not in config and "measure" not in config for config in ray.configs)
    assert '"with"' not in search.journal.read_text()


def test_checkpoint_of_a_member_is_its_part_of_rays(search: Search) -> None:
    searched(search, 3, search__keep_checkpoints=None)
    for name in CONTROLS:
        place = search.folder / "ray" / "start-0" / FIRST
        assert read_history(search.journal).trials[name].checkpoint == str(place / "checkpoint_000004" / name)
        assert (place / "checkpoint_000003" / name).is_dir()  # Ray removes those of its own trial


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 2)])
def test_search_killed_in_its_confirmations_resumes_with_stacks_of_another_size(
    tmp_path: Path, before: int, after: int
) -> None:
    unbroken, search = Search(tmp_path / "unbroken", SETTINGS), Search(tmp_path / "broken", SETTINGS)
    searched(unbroken, 1)
    # Three runs of three further epochs each, after the first one; then the confirmations of the control.
    searched(search, before, die_after=11)
    broken = read_history(search.journal).trials
    assert broken[FIRST].state is None
    assert broken[FIRST].last_epoch == 2
    resumed = searched(search, after)
    assert resumed.groups[0] == CONTROLS[: min(after, before)]
    assert {epoch_of(run["checkpoint"]) for run in resumed.configs[0].get("stack", resumed.configs[:1])} == {2}
    assert told(search.outcome) == told(unbroken.outcome)
    assert not Path(broken[FIRST].checkpoint or "").exists()  # Ray does not remove those of an earlier session


@pytest.mark.parametrize("after", [1, 3])
def test_journal_of_stacks_cut_after_any_line_leads_to_the_records_of_the_unharmed_search(
    tmp_path: Path, after: int
) -> None:
    whole = Search(tmp_path / "whole", SETTINGS)
    searched(whole, 3, search__keep_checkpoints=None)
    lines = whole.journal.read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if FIRST in line)
    for cut in range(first, len(lines)):
        folder = tmp_path / f"cut-{cut}"
        shutil.copytree(whole.folder, folder)
        text = "".join(lines[:cut]).replace(str(whole.folder), str(folder))
        (folder / "journal.jsonl").write_text(text)
        search = Search(folder, SETTINGS)
        searched(search, after, search__keep_checkpoints=None)
        assert told(search.outcome) == told(whole.outcome), f"cut before {lines[cut]}"
        shutil.rmtree(folder)


def test_stack_that_is_given_back_in_part_is_trained_in_the_size_that_was_measured(search: Search) -> None:
    def fate(config: dict[str, Any], name: str, epoch: int) -> Any:
        return {"size": 2, "why": "more would not be faster"} if config.get("measure") else None

    search.gpus = 1.0
    ray = searched(search, None, fate)
    assert ray.groups[3:6] == [CONTROLS, CONTROLS[:2], CONTROLS[2:]]
    assert [config.get("measure") for config in ray.configs[3:6]] == [True, False, None]
    assert {record.state for record in search.outcome} == {COMPLETE}


def test_member_that_diverges_fails_and_the_others_go_on_without_it(search: Search) -> None:
    def fate(config: dict[str, Any], name: str, epoch: int) -> str | None:
        return "diverged: in epoch 2" if (name, epoch) == (FIRST, 2) else None

    searched(search, 3, fate)
    by_id = {record.id: record for record in search.outcome}
    assert [by_id[name].state for name in CONTROLS] == [FAILED, COMPLETE, COMPLETE]
    assert by_id[FIRST].reason == "diverged: in epoch 2"
    assert [by_id[name].last_epoch for name in CONTROLS] == [1, 4, 4]
    assert search.heard.of(FIRST)[-1] == "ended failed"


def test_stack_of_which_every_member_diverges_ends(search: Search) -> None:
    searched(search, 3, lambda config, name, epoch: "diverged" if name in CONTROLS else None)
    assert [record.state for record in search.outcome if record.id in CONTROLS] == [FAILED] * 3


def test_stack_that_is_given_back_is_trained_alone_from_its_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fate(config: dict[str, Any], name: str, epoch: int) -> Any:
        return {"size": 1, "why": "no memory"} if "stack" in config and epoch == 3 else None

    alone, search = Search(tmp_path / "alone", SETTINGS), Search(tmp_path / "together", SETTINGS)
    searched(alone, 1)
    ray = searched(search, 3, fate)
    assert ray.groups[3:7] == [CONTROLS, *([name] for name in CONTROLS)]
    assert [epoch_of(config["checkpoint"]) for config in ray.configs[4:7]] == [2, 2, 2]
    assert ray.configs[4]["folder"] == f"{FIRST}-2"
    assert told(search.outcome) == told(alone.outcome)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "baseline: each of its confirmations is trained alone: no memory"
    assert len(said) == 2  # and of the best configuration


def test_stack_whose_worker_is_lost_too_often_is_trained_alone(search: Search) -> None:
    with search.session(search__confirm__seeds_per_worker=3) as course:
        ray = Ray(course, search.folder / "ray")
        while len((config := ray.searcher.suggest("")).get("stack", [])) < 3:
            list(ray.train(config))
        known = SimpleNamespace(num_failures=3)
        dead: Any = SimpleNamespace(config=config, run_metadata=known, max_failures=2, error_file=None, path=None)
        assert course.num_running == 1
        ray.callback.on_trial_error(iteration=1, trials=[], trial=dead)
        assert course.num_running == 0
        ray.run()
        assert ray.groups[:3] == [[name] for name in CONTROLS]
    assert {record.state for record in search.outcome} == {COMPLETE}


def test_worker_that_is_started_again_changes_nothing_of_a_member_that_has_ended(search: Search) -> None:
    def fate(config: dict[str, Any], name: str, epoch: int) -> str | None:
        return "diverged" if (name, epoch) == (FIRST, 1) else None

    with search.session(search__confirm__seeds_per_worker=3) as course:
        ray = Ray(course, search.folder / "ray", fate)
        while len((config := ray.searcher.suggest("")).get("stack", [])) < 3:
            list(ray.train(config))
        next(epochs := ray.train(config))
        # The worker dies and begins with all members again, which now do not diverge.
        trial: Any = SimpleNamespace(config=config, last_result={})
        reports = [ray.report(name, 1, None) for name in CONTROLS]
        again = {"epoch": 1, "objective": math.nan, "metrics": {}, "failed": None, "stack": reports}
        assert ray.scheduler.on_trial_result(NOBODY, trial, flatten_dict(again)) == TrialScheduler.CONTINUE
        for _ in epochs:
            pass
        trials = course.journal.trials
        assert [(trials[name].state, trials[name].last_epoch) for name in CONTROLS] == [
            (FAILED, 0),
            (COMPLETE, 4),
            (COMPLETE, 4),
        ]


def test_stack_whose_worker_is_lost_after_its_last_report_is_complete(search: Search) -> None:
    with search.session(search__confirm__seeds_per_worker=3) as course:
        ray = Ray(course, search.folder / "ray")
        while len((config := ray.searcher.suggest("")).get("stack", [])) < 3:
            list(ray.train(config))
        reports = [ray.report(name, 4, None) for name in CONTROLS]
        last = {"epoch": 4, "objective": math.nan, "metrics": {}, "failed": None, "stack": reports}
        dead: Any = SimpleNamespace(config=config, max_failures=2, error_file=None, path=None, last_result=last)
        assert ray.scheduler.on_trial_result(NOBODY, dead, flatten_dict(last)) == TrialScheduler.STOP
        ray.callback.on_trial_error(iteration=1, trials=[], trial=dead)
        assert [course.journal.trials[name].state for name in CONTROLS] == [COMPLETE] * 3


def test_stack_takes_one_place_on_a_cluster_and_may_be_sent_to_another_node(search: Search) -> None:
    with search.session(search__confirm__seeds_per_worker=3) as course:
        ray = Ray(course, search.folder / "ray")
        room = Capacity(cpus=1, gpus=0)
        ray.callback = JournalCallback(course, room)
        while len((config := ray.searcher.suggest("")).get("stack", [])) < 3:
            list(ray.train(config))
        refused = {"epoch": 0, "failed": "refused", "refused": {"node": "ab12", "why": ["far: torch 9.9 there"]}}
        trial: Any = SimpleNamespace(config=config, last_result=refused)
        ray.callback.on_trial_start(iteration=1, trials=[], trial=trial)
        assert course.num_running == 1
        assert set(course.journal.history.stacks) == set(CONTROLS)
        ray.callback.on_trial_complete(iteration=1, trials=[], trial=trial)
        assert room.excluded == ["ab12"]
        assert course.num_running == 0
        ray.run()
        assert ray.groups[0] == CONTROLS
    assert {record.state for record in search.outcome} == {COMPLETE}


def test_speed_that_is_measured_before_the_first_epoch_is_each_members_own(search: Search) -> None:
    with search.session(search__confirm__seeds_per_worker=3) as course:
        ray = Ray(course, search.folder / "ray")
        while len((config := ray.searcher.suggest("")).get("stack", [])) < 3:
            list(ray.train(config))
        trial: Any = SimpleNamespace(config=config, last_result={})
        each = {"epoch": 0, "metrics": {}, "failed": None}
        reports = [
            each | {"trial": name, "measured": {"latency_ms": float(ms)}} for ms, name in enumerate(CONTROLS, start=1)
        ]
        report = {"epoch": 0, "objective": math.nan, "metrics": {}, "failed": None, "stack": reports}
        assert ray.scheduler.on_trial_result(NOBODY, trial, flatten_dict(report)) == TrialScheduler.CONTINUE
        ray.callback.on_trial_result(1, [], trial, report)
        trials = course.journal.trials
        assert [trials[name].measured for name in CONTROLS] == [{"latency_ms": ms} for ms in (1.0, 2.0, 3.0)]
        assert not any(trials[name].epochs for name in CONTROLS)


def test_gpu_hours_of_a_stack_are_those_of_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    search = Search(tmp_path, SETTINGS, clock=clock, gpus=0.5)
    searched(search, 3, clock=clock)
    history = read_history(search.journal)
    assert history.gpu_seconds == pytest.approx(0.5 * history.busy_s)
    assert history.busy_s == pytest.approx(history.seconds) == pytest.approx((3 + 2) * 4 * 6.0)
    assert [history.trials[name].busy_s for name in CONTROLS] == pytest.approx([8.0] * 3)


def test_runs_that_wait_after_their_stack_was_given_back_occupy_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fate(config: dict[str, Any], name: str, epoch: int) -> Any:
        return {"size": 1, "why": "no memory"} if "stack" in config and epoch == 3 else None

    clock = Clock(monkeypatch)
    search = Search(tmp_path, SETTINGS, clock=clock)
    searched(search, 3, fate, clock=clock)
    history = read_history(search.journal)
    # Of three epochs together, in the last of which the stack was given back, and two alone.
    assert [history.trials[name].busy_s for name in CONTROLS] == pytest.approx([3 * 6.0 / 3 + 2 * 6.0] * 3)
    assert history.busy_s == pytest.approx(history.seconds)


def test_budget_that_has_room_for_one_more_confirmation_starts_no_stack_of_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    search = Search(tmp_path, SETTINGS, clock=clock)

    def slow_at_the_end(config: dict[str, Any], name: str, epoch: int) -> None:
        clock.now += 0.0 if name in ("baseline", "t0000") else 40.0

    ray = searched(search, 3, slow_at_the_end, clock=clock, search__budget__hours=400 / 3600)
    assert search.stopped is not None
    assert "search.budget.hours" in search.stopped
    assert ray.groups[-1] != CONTROLS
    assert len(ray.groups[-1]) < 3


@pytest.mark.parametrize(
    ("asked", "gpus", "device", "slots", "most"),
    [
        (None, 1.0, "auto", 1, 6),
        (None, 1.0, "auto", 4, 2),  # no stack leaves a GPU without a run
        (None, 0.5, "auto", 1, 1),
        (None, 0.0, "auto", 1, 1),
        (None, 1.0, "cpu", 1, 1),
        (3, 0.0, "cpu", 4, 3),
        (1, 1.0, "auto", 1, 1),
    ],
)
def test_stack_is_as_large_as_asked_for_or_measured_on_a_whole_gpu(
    asked: int | None, gpus: float, device: str, slots: int, most: int, search: Search
) -> None:
    settings = {"search__confirm__seeds_per_worker": asked, "base__device": device}
    with search.session(**settings) as course:
        found = StackSizes(course.params, gpus=gpus, slots=slots)
        assert found.most("t0000", 6) == most
        assert found.any == (most > 1)
        assert found.is_measured("t0000") == (asked is None and most > 1)
        found.limit("t0000", 1)
        assert (found.most("t0000", 6), found.most("t0001", 6)) == (1, most)
        assert not found.is_measured("t0000")


def test_confirmations_of_two_configurations_are_never_in_one_stack(search: Search) -> None:
    ray = searched(search, 100, search__confirm__top=2)
    assert [len(group) for group in ray.groups[3:]] == [3, 3, 3]
    assert all(len({name.partition("-")[0] for name in group}) == 1 for group in ray.groups)
