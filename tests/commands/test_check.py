"""Claims about the check before a run: which search it speaks of, and what it refuses."""

import itertools
import json
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copied import set_parameters
from support.check_state import begun, told
from support.partial_results import filled_content

from pipeline.artifacts.search_result import SearchSummary
from pipeline.commands.check import run_check, unknown_words
from pipeline.commands.compare_run import Answer, check_methods
from pipeline.commands.train import train_once
from pipeline.compared import compared_plans
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.preflight import profile, up_to_date
from pipeline.preflight.estimate import Estimate, RemainingWork, remaining_work
from pipeline.preflight.plan import make_plan
from pipeline.preflight.search_budget import check_budget
from pipeline.preflight.up_to_date import FinishedSearch, finished_search, stages_up_to_date
from pipeline.provenance.stage_inputs import absent_parameters
from pipeline.stages.split import __main__ as split
from pipeline.state.search_summary import describe_start
from pipeline.tune.journal.image_scores import pack_scores, read_scores
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import (
    ASKED_TO_FINISH,
    CONFIRMATION,
    CONTROL,
    JOURNAL,
    TRIAL,
    SearchHistory,
    TrialRecord,
    read_history,
)
from pipeline.tune.requested import surplus_runs
from pipeline.tune.run_counts import max_runs
from pipeline.tune.selection.confirmed_tables import forecast_content
from pipeline.workspace import Workspace

QUICK = Estimate(seconds=(60.0, 120.0), epoch=(1.0, 2.0), gpu_hours=None, cost=None)


def test_search_that_an_earlier_version_began_is_begun_anew_and_said_so(workspace: Workspace) -> None:
    task = begun(workspace)
    (task.folder / JOURNAL).rename(task.folder / "ledger.jsonl")
    new = make_plan(workspace).task()
    assert new.folder != task.folder
    said = told(workspace, measured=False)
    assert (
        f"search {new.folder.name[:8]}: new; search {task.folder.name[:8]} of the same parameters was begun by" in said
    )
    begun(workspace, by_other_code=False)
    assert f"search {new.folder.name[:8]}: goes on" in told(workspace, measured=False)


def test_search_is_said_to_be_new_and_then_to_go_on(workspace: Workspace) -> None:
    plan = make_plan(workspace)
    name, runs = plan.task().folder.name[:8], max_runs(plan.params, plan.space)
    assert f"search {name}: new" in told(workspace, measured=False)
    other = workspace.searches / "other"
    with Journal(other / JOURNAL, {"fingerprint": "other", "content": {"space": {}}}) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
    compared = describe_start(plan.task(), workspace.searches, compared=True)
    assert compared == f"search {name}: new"  # of another method's search, differences say nothing
    assert describe_start(plan.task(), workspace.searches).startswith(f"{compared}; changed since search other: ")
    fold = workspace.searches / "fold"  # the newest, and of other images, so that its differences say nothing
    with Journal(fold / JOURNAL, {"fingerprint": "fold", "content": {}, "part": "fold 5 of 5"}) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
    assert "; changed since search other: " in told(workspace, measured=False)
    shutil.rmtree(other)
    shutil.rmtree(fold)
    task = begun(workspace, by_other_code=False)
    said = told(workspace, measured=False)
    assert f"search {name}: goes on; 0 of at most {runs} runs have ended (1 trial: 1 not ended); " in said
    over = describe_start(task, workspace.searches, nothing_left=True)
    assert over.startswith(f"search {name}: has ended; 0 of at most {runs} runs have ended")
    with Journal(task.folder / JOURNAL, task.header):
        said = told(workspace, measured=False)
        assert f"search {name}: is running now, by process {os.getpid()}; 0 of at most {runs} runs have ended" in said


def test_power_is_foretold_by_assumptions_and_then_by_what_the_search_has_confirmed(workspace: Workspace) -> None:
    """Before anything trains, while the search runs, and by its summary once it has ended."""
    said = told(workspace, measured=False)
    assert "on 359 test images;\n          assumed, since no configuration has been confirmed yet\n" in said
    assert "where attention is not shown to be better" in said  # the digits have masks
    task = begun(workspace, by_other_code=False)
    assert "assumed, since no configuration has been confirmed yet" in told(workspace, measured=False)
    rng = np.random.default_rng(0)
    with Journal(task.folder / JOURNAL, task.header) as journal:
        for number, seed in itertools.product(range(5), (1001, 1002)):
            name = f"t000{number}-seed{seed}"
            values = {"regularizer.spatial_entropy.weight": 0.1 * number}
            journal.start(TrialRecord(name, None, values, role=CONFIRMATION, seed=seed, of=f"t000{number}"))
            journal.report(name, 1, {"val/accuracy": 0.5}, scores=pack_scores(rng.random(287) < 0.97))
            journal.end(name, "complete")
    by = "by {} configurations with 2 further seeds each, on 287 validation images of the search"
    assert by.format(5) in told(workspace, measured=False)
    records = read_history(task.folder / JOURNAL).trials.values()
    content = forecast_content(records, read_scores(task.folder), task.resources, Params())
    folder = workspace.results / "search"
    folder.mkdir(parents=True)
    summary = {"fingerprint": task.fingerprint, "forecast": {**asdict(content), "configurations": 6}}
    summary |= {"epochs": {"spent": 10}, "spent": {"hours": 0.1, "worker_hours": 0.1, "gpu_hours": 0.0}}
    summary = filled_content(SearchSummary, summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    assert by.format(6) in told(workspace, measured=False)
    (folder / "summary.json").write_text(json.dumps(summary | {"fingerprint": "another"}))
    assert by.format(5) in told(workspace, measured=False)


def test_seeds_that_the_search_is_to_choose_are_a_range_in_the_plan(workspace: Workspace) -> None:
    set_parameters(workspace.params, {"retrain.seeds": "auto", "retrain.max_seeds": 12})
    said = told(workspace, measured=False)
    assert "retrain   best and baseline, 2 to 12 (retrain.seeds: auto) seeds each, 3 epochs" in said
    assert "retrain.seeds: auto, by the current forecast: 8 seeds each, a further one would narrow" in said


def test_nothing_is_expected_of_results_that_are_up_to_date(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = begun(workspace, by_other_code=False)
    folder = workspace.results / "search"
    folder.mkdir(parents=True)
    best = {"fingerprint": task.fingerprint, "trial": "t0000", "best": {}, "controls": {}}
    summary = {"stopped_by": ASKED_TO_FINISH, "trials": {"complete": 1, "pruned": 0}, "trials_asked": 12}
    (folder / "best.yaml").write_text(json.dumps(best))
    summary = filled_content(SearchSummary, summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    fresh = {"prepare", "split", "search", "retrain"}
    monkeypatch.setattr(up_to_date, "stages_up_to_date", lambda root, stages: frozenset(fresh))
    monkeypatch.setattr(profile, "_measure", lambda *_, **__: pytest.fail("measured"))
    said = told(workspace)
    assert said.endswith("expected  nothing of the search, nor of retraining: the finished runs have these parameters")
    assert "was ended by sar-search stop --finish with 1 of 12 trials; `sar-search re" in said
    fresh.remove("retrain")
    (folder / "summary.json").write_text(json.dumps(summary | {"stopped_by": None}))
    assert finished_search(task, workspace.results) == FinishedSearch("has ended", retrained=False)
    fresh.remove("split")
    assert finished_search(task, workspace.results) is None
    fresh.add("split")
    (folder / "best.yaml").write_text(json.dumps(best | {"fingerprint": "another"}))
    assert finished_search(task, workspace.results) is None


def test_dvc_is_asked_which_stages_it_would_leave(tmp_path: Path) -> None:
    assert stages_up_to_date(tmp_path, ("prepare",)) == frozenset()  # no place of DVC's
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n  no_scm = true\n  analytics = false\n")
    (tmp_path / "data").write_text("")
    stages = {"prepare": {"cmd": "true", "deps": ["data"]}, "split": {"cmd": "true", "deps": ["data"]}}
    hashed = {"path": "data", "hash": "md5", "md5": "d41d8cd98f00b204e9800998ecf8427e", "size": 0}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    lock = {"schema": "2.0", "stages": {"split": {"cmd": "true", "deps": [hashed]}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock))
    assert stages_up_to_date(tmp_path, ("prepare", "split")) == {"split"}


def test_parameters_that_dvc_lists_and_the_file_lacks_are_named_with_what_holds(workspace: Workspace) -> None:
    text = workspace.params.read_text()
    lines = [line for line in text.splitlines() if "retry_out_of_memory:" not in line and "  margin:" not in line]
    assert len(lines) == len(text.splitlines()) - 3  # promote.margin too, which no stage lists
    workspace.params.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="lacks parameters that") as caught:
        told(workspace, measured=False)
    plan = make_plan(workspace)
    said = str(caught.value).splitlines()[1:]
    margin, retry = json.dumps(plan.params.evaluate.margin), json.dumps(plan.params.search.retry_out_of_memory)
    assert said == [f"  search.retry_out_of_memory: {retry}", f"  evaluate.margin: {margin}"]
    # A name in a path of dvc.yaml counts too; a stage that is run by hand needs none of them.
    workspace.params.write_text(text.replace("  space: ", "  spaces_of_mine: "))
    assert absent_parameters(workspace) == ["search.space"]


def ended(name: str, role: str = TRIAL, state: str | None = "complete") -> TrialRecord:
    return TrialRecord(name, None, {}, role=role, state=state)


def test_what_is_left_of_a_search_is_what_has_not_ended(workspace: Workspace) -> None:
    plan = make_plan(workspace)
    trials, full = plan.params.search.trials, max_runs(plan.params, plan.space) - plan.params.search.trials
    assert remaining_work(plan, SearchHistory()) == RemainingWork(
        trials, full, plan.params.train.epochs, plan.resources.max_concurrent, 0.0
    )
    some = [ended("t0000"), ended("t0001", state="pruned"), ended("t0002", state=None), ended("baseline", CONTROL)]
    left = remaining_work(plan, SearchHistory(trials={trial.id: trial for trial in some}))
    assert (left.trials, left.full_runs) == (trials - 2, full - 1)
    # Another session had more trials than are asked for now.
    many = {f"t{number:04}": ended(f"t{number:04}") for number in range(trials + 5)}
    assert remaining_work(plan, SearchHistory(trials=many)).trials == 0


def test_what_is_left_of_a_budget_is_what_has_not_been_spent(workspace: Workspace) -> None:
    by_epochs = {"search.trials": None, "search.budget.full_trainings": 20, "train.epochs": 8}
    set_parameters(workspace.params, by_epochs)
    plan = make_plan(workspace)
    # Two controls and ten confirmations of 20 leave 8 trainings; a rung comes after two epochs.
    fresh = remaining_work(plan, SearchHistory())
    assert (fresh.trials, fresh.full_runs, fresh.trial_epochs) == (32, 12, 64)

    def left(*trials: TrialRecord) -> RemainingWork:
        return remaining_work(plan, SearchHistory(trials={trial.id: trial for trial in trials}))

    control, half = ended("baseline", CONTROL), ended("paper", CONTROL, state=None)
    control.epochs, half.epochs = {8: {}}, {3: {}}
    stopped, paused = ended("t0000", state="pruned"), ended("t0001", state=None)
    stopped.epochs, paused.epochs, paused.repeated = {2: {}}, {2: {}}, 2
    # A control that has begun is within its whole run; what a paused trial trained twice is spent twice.
    assert left(control, half, stopped, paused) == RemainingWork(
        29, 11, 8, plan.resources.max_concurrent, 0.0, trial_epochs=64 - 2 - 4
    )
    stopped.epochs = {62: {}}
    # Nothing more can be proposed, and what is paused may go on, or ends.
    assert (left(stopped, paused).trials, left(stopped).trials, left(stopped).trial_epochs) == (1, 1, 2)
    stopped.epochs = {63: {}}
    assert left(stopped).trials == 0


def test_search_with_a_larger_budget_than_now_is_told_and_trains_nothing_more(workspace: Workspace) -> None:
    by_epochs = {"search.trials": None, "search.budget.full_trainings": 4, "search.confirm.seeds": 0, "train.epochs": 8}
    set_parameters(workspace.params, by_epochs)
    plan = make_plan(workspace)
    task = plan.task()
    with Journal(task.folder / JOURNAL, task.header) as journal:
        for name, role, of in (
            ("baseline", CONTROL, None),
            ("paper", CONTROL, None),
            ("t0000", TRIAL, None),
            ("baseline-seed1001", CONFIRMATION, "baseline"),
        ):
            seed = 1001 if of else None
            journal.start(TrialRecord(name, 0 if role == TRIAL else None, {}, role=role, of=of, seed=seed))
            for epoch in range(1, 9):
                journal.report(name, epoch, {"val/accuracy": 0.5, "seconds": 1.0})
            journal.end(name, "complete")
    said = told(workspace)
    assert (
        f"search {task.folder.name[:8]}: was begun with a larger budget; 32 epochs are spent, 32 are allowed now, so no "
        "further trial is trained\n" in said
    )
    assert said.endswith("expected  nothing of the search: all of its runs have ended")
    history = read_history(task.folder / JOURNAL)
    assert [run.id for run in surplus_runs(history.trials, plan.params, plan.space)] == ["baseline-seed1001"]
    assert remaining_work(plan, history).full_runs == 0
    # Where its confirmation is asked for, another one of the candidate's is to come, whatever the budget has left.
    asked = replace(plan, params=plan.params.with_values({"search.confirm.seeds": 1}, where=""))
    assert not surplus_runs(history.trials, asked.params, asked.space)


def test_plan_of_a_comparison_has_one_table_of_power_and_a_line_for_each_search(workspace: Workspace) -> None:
    def plan_told(**changed: Any) -> str:
        if changed:
            set_parameters(workspace.params, {name.replace("__", "."): value for name, value in changed.items()})
        return "\n".join(check_methods(workspace, "sar,tv", Answer(), measured=False))

    said = plan_told()
    assert said.count("power     ") == 1
    # Two methods, by accuracy and by attention: the digits have masks.
    assert "the chance to show at 98.75 % that accuracy" in said
    assert "for each of 4 comparisons (every method with the control, by accuracy and by attention)" in " ".join(
        said.split()
    )
    assert re.search(r"^sar {7}\d trials? over regularizer\.spatial_entropy\.weight", said, re.M)
    assert re.search(r"^tv {8}\d trials? over regularizer\.total_variation\.weight", said, re.M)
    assert said.count("retrain ") == 1
    assert "<- retrain.seeds" in plan_told(retrain__seeds="auto")


def test_plan_of_a_comparison_says_which_search_has_nothing_to_train(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(workspace)
    task = plan.task()
    with Journal(task.folder / JOURNAL, task.header) as journal:
        for number in range(max_runs(plan.params, plan.space)):
            role = TRIAL if number < plan.params.search.trials else CONTROL
            journal.start(TrialRecord(f"r{number}", number, {}, role=role))
            journal.end(f"r{number}", "complete")
    monkeypatch.setattr(profile, "_measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setattr(compared_plans, "estimate_searches", lambda *_, **__: QUICK)
    said = "\n".join(check_methods(workspace, "sar,tv", Answer()))
    assert f"sar       nothing to train: search {task.folder.name[:8]} has ended\n" in said
    assert "tv        1 to 2 minutes for the search\n" in said


def test_nothing_is_measured_or_expected_of_a_search_that_has_ended(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(workspace)
    task = plan.task()
    with Journal(task.folder / JOURNAL, task.header) as journal:
        for number in range(max_runs(plan.params, plan.space)):
            role = TRIAL if number < plan.params.search.trials else CONTROL
            journal.start(TrialRecord(f"r{number}", number, {}, role=role))
            journal.end(f"r{number}", "complete")
    monkeypatch.setattr(profile, "_measure", lambda *_, **__: pytest.fail("measured"))
    said = told(workspace)
    assert f"search {task.folder.name[:8]}: has ended; " in said
    assert said.endswith("expected  nothing of the search: all of its runs have ended")


def test_space_that_is_smaller_than_the_trials_asked_for_is_told(workspace: Workspace) -> None:
    small = """
parameters:
  regularizer.spatial_entropy.layers: {type: categorical, choices: [last, all]}
  train.weight_decay: {type: float, low: 0.1, high: 0.3, step: 0.2}
controls:
  baseline: {}
"""
    (workspace.root / "search_spaces" / "small.yaml").write_text(small)
    asked = {"search.space": "search_spaces/small.yaml", "search.trials": 10, "search.compare": "same_budget"}
    set_parameters(workspace.params, asked)
    plan = make_plan(workspace).describe()
    assert (
        "4 trials, every configuration that the space has (search.trials: 10); 2, every configuration, of baseline's own"
        in plan
    )
    assert remaining_work(make_plan(workspace), SearchHistory()).trials == 4 + 2
    set_parameters(workspace.params, {"search.trials": 4, "search.compare": "recipe"})
    assert "    4 trials and 1 control (baseline)" in make_plan(workspace).describe()


def test_check_that_is_not_to_measure_says_so_and_still_refuses_what_it_can(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "_measure", lambda *_, **__: pytest.fail("measured"))
    assert told(workspace, measured=False).splitlines()[-1].startswith("expected  not measured (--no-measure)")
    set_parameters(workspace.params, {"search.budget.gpu_hours": 1.0})
    with pytest.raises(UserError, match="trials use no GPU here"):
        told(workspace, measured=False)


def test_before_anything_is_prepared_the_plan_alone_is_told(workspace: Workspace) -> None:
    shutil.rmtree(workspace.prepared)
    said = told(workspace, new=True)
    assert "no data are prepared yet" in said
    assert "choose    the best by val/attention/auroc if at least 50 validation images have a mask" in said
    assert said.index("\nmeasuring training steps, up to 20 s") < said.index("\nexpected ")
    assert "search 0" not in said
    assert "expected" in said


def test_plan_names_the_metric_that_decides_once_the_data_are_prepared(workspace: Workspace) -> None:
    said = told(workspace, measured=False)
    (line,) = [line for line in said.splitlines() if line.startswith("choose  ")]
    assert line.startswith(
        "choose    the best by val/attention/auroc among those whose mean accuracy lies within 2 standard errors"
    )
    assert line.endswith("; at least 50 of the 287 validation images have a mask with object and background")


def test_search_is_that_of_the_parameters_and_not_of_a_split_made_by_earlier_ones(workspace: Workspace) -> None:
    old = make_plan(workspace).task()
    set_parameters(workspace.params, {"split.val_fraction": 0.3})
    plan = make_plan(workspace)
    present = plan.current_tasks()[0]
    assert present is not None
    assert present.folder != old.folder
    split.main(workspace)
    assert plan.task().header["content"] == present.header["content"]
    assert plan.task().folder == present.folder


@pytest.mark.parametrize(
    ("budget", "gpus", "message"),
    [
        ({"hours": 0.004}, 0.0, "search.budget.hours: given 0.004, but a single trial of 16 epochs takes 0.00444"),
        ({"gpu_hours": 1.0}, 0.0, "search.budget.gpu_hours: trials use no GPU here"),
        ({"cost": 1.0}, 0.0, "search.budget.cost: trials use no GPU here"),
        ({"cost": 1.0}, 1.0, "needs search.budget.price_per_gpu_hour"),
        ({"gpu_hours": 0.002}, 0.5, "search.budget.gpu_hours: given 0.002, but a single trial"),
        ({"cost": 0.004, "price_per_gpu_hour": 2.0}, 0.5, "search.budget.cost: given 0.004, but a single trial"),
    ],
)
def test_budget_that_no_trial_fits_or_that_never_binds_is_refused(
    budget: dict[str, Any], gpus: float, message: str
) -> None:
    given = {"train.epochs": 16} | {f"search.budget.{name}": value for name, value in budget.items()}
    params = Params().with_values(given, where="test")
    with pytest.raises(UserError) as refused:
        check_budget(params, QUICK.epoch[0], gpus=gpus)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("budget", "gpus"),
    [
        ({}, 0.0),
        ({"hours": 0.005}, 0.0),
        ({"gpu_hours": 0.003}, 0.5),
        ({"cost": 0.005, "price_per_gpu_hour": 2.0}, 0.5),
    ],
)
def test_budget_that_one_trial_fits_is_taken(budget: dict[str, Any], gpus: float) -> None:
    given = {"train.epochs": 16} | {f"search.budget.{name}": value for name, value in budget.items()}
    params = Params().with_values(given, where="test")
    check_budget(params, QUICK.epoch[0], gpus=gpus)


def test_too_small_a_budget_is_refused_by_what_was_measured(workspace: Workspace) -> None:
    set_parameters(workspace.params, {"search.budget.hours": 1e-7})
    with pytest.raises(UserError, match=r"search\.budget\.hours: given 1e-07, but a single trial"):
        told(workspace)
    assert not json.dumps(list(map(str, workspace.searches.rglob("*")))).strip("[]")


def test_check_refuses_groups_that_cannot_be_before_it_measures(workspace: Workspace) -> None:
    set_parameters(workspace.params, {"split.group_by": r"(\d+)_"})
    with pytest.raises(UserError, match="the images of digits have no file names to group them by"):
        next(run_check(workspace))


def test_compiling_without_a_compiler_is_refused_before_anything_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_parameters(workspace.params, {"train.compile": "always"})
    monkeypatch.delenv("CXX", raising=False)
    git = shutil.which("git")
    assert git is not None
    there = workspace.root / "bin"
    there.mkdir()
    (there / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(there))
    with pytest.raises(UserError, match=r"train\.compile: always needs a C\+\+ compiler"):
        make_plan(workspace)
    monkeypatch.setenv("CXX", git)
    make_plan(workspace)


def test_of_many_search_spaces_that_git_does_not_know_the_used_one_is_named() -> None:
    spaces = [f"search_spaces/{name}.yaml" for name in ("a", "it's", "z")]
    words = unknown_words(spaces, "./search_spaces/it's.yaml")
    assert words.startswith(
        "does not know search_spaces/it's.yaml and 2 others: `git add 'search_spaces/it'\"'\"'s.yaml'`"
    )
    assert unknown_words(spaces[:1], "mine.yaml").startswith(f"does not know {spaces[0]}: `git add {spaces[0]}` before")


def test_every_fold_has_a_search_that_check_names(workspace: Workspace) -> None:
    set_parameters(workspace.params, {"evaluate.folds": 3})
    said = told(workspace, measured=False)
    assert said.startswith("folds     3: 4 searches")
    tasks = make_plan(workspace).current_tasks()
    assert len({task.folder for task in tasks}) == 4
    for task, part in zip(tasks, ("all images", "fold 1 of 3", "fold 2 of 3", "fold 3 of 3"), strict=True):
        assert f"search {task.folder.name[:8]}, {part}: new" in said
    assert "on 1,797 test images of 3 folds;" in said
    split.main(workspace)
    of_split = [each.task() for each in make_plan(workspace).parts()]
    assert [task.fingerprint for task in of_split] == [task.fingerprint for task in tasks]
    assert [task.header for task in of_split] == [task.header for task in tasks]
    assert [task.asked for task in of_split] == [task.asked for task in tasks]
    assert len({task.split for task in of_split}) == 4
    assert all(task.split.is_file() for task in of_split)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"evaluate.folds": 100}, r"evaluate\.folds: 100?.*|class 8"),
        ({"evaluate.holdout": 0.2}, r"evaluate\.holdout: given 0\.2, and evaluate\.folds is null"),
        ({"evaluate.folds": 5, "search.warm_start": "7a64"}, r"search\.warm_start: given '7a64', with evaluate\.folds"),
        ({"evaluate.folds": 1}, r"evaluate\.folds: given 1"),
        ({"evaluate.folds": 5, "evaluate.holdout": 1.0}, r"evaluate\.holdout: given 1\.0"),
    ],
)
def test_folds_that_cannot_be_are_refused_before_anything_trains(
    workspace: Workspace, settings: Any, said: str
) -> None:
    if settings.get("evaluate.folds") == 100:
        labels = np.load(workspace.prepared / "labels.npy")
        labels[np.flatnonzero(labels == 8)[30:]] = 7  # thirty are left
        np.save(workspace.prepared / "labels.npy", labels)
        said = r"evaluate\.folds: given 100; class 8 has 30 images, and each class needs one in every fold"
    set_parameters(workspace.params, settings)
    with pytest.raises(UserError, match=said):
        told(workspace, measured=False)


def test_freezing_is_told_and_what_then_has_no_gradient_is_refused_in_a_sentence(workspace: Workspace) -> None:
    set_parameters(workspace.params, {"model.freeze": 1})
    lines = make_plan(workspace).describe().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("model  "))
    assert re.fullmatch(r" {10}model\.freeze: 1, so [\d,]+ of [\d,]+ parameters are trained", lines[at + 1])
    assert "model.freeze without model.pretrained keeps random weights" in lines[at + 2]
    set_parameters(workspace.params, {"model.freeze": "all"})
    said = r"^search_spaces/sar\.yaml: regularizer\.spatial_entropy\.layers: 'last' are blocks .* has no gradient;"
    with pytest.raises(UserError, match=said):
        make_plan(workspace)
    on = {"model.freeze": "all", "regularizer.spatial_entropy.weight": 0.1}
    with pytest.raises(UserError, match=r"^regularizer\.spatial_entropy: reads only parts that model\.freeze freezes"):
        list(train_once(workspace, on))
