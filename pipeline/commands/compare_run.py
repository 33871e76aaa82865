"""`sar-search compare --run METHODS`: the searches of several methods, their retraining, and one family of comparisons.

Each search has a folder, `results/compare/<name>/`, with the params.yaml that it runs by and what its stages leave, so
that neither the user's params.yaml nor `results/` of the pipeline are touched. Data and split are DVC's, as ever;
searches, retraining and evaluations are kept under `state/` by what decides them, so that the same command goes on
wherever it was broken off, and what another run has done already is not done again.

All methods are searched, then all are retrained, and only then are the test images looked at: by all networks at once.
"""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.best_config import BestConfig, read_fold_searches
from pipeline.artifacts.retraining import ChosenSeeds, Retraining
from pipeline.commands.check import check_listed
from pipeline.commands.repro import alone_with_dvc, run_dvc, run_python
from pipeline.compared.compared_methods import CONTROL, Comparison, read_comparison, write_params
from pipeline.compared.compared_plans import describe_comparison_plan, describe_total, plan_searches
from pipeline.compared.compared_results import (
    ComparedResults,
    describe_answer,
    gather_results,
    search_cost,
    share_control,
)
from pipeline.compared.comparison_table import comparison_page, describe_compared, result_rows
from pipeline.config import Params, Values, load_params
from pipeline.console.format import config_name
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.splits.split import read_split
from pipeline.entry import METHOD
from pipeline.errors import UserError
from pipeline.figures.methods_page import render_comparison
from pipeline.files.atomic import write_whole
from pipeline.inputs.data_split import check_group_by
from pipeline.preflight.plan import Plan
from pipeline.provenance.code_hash import content_hash
from pipeline.provenance.trace import commit, trace
from pipeline.state.looks import hash_networks, record_look
from pipeline.state.search_summary import decide_on_changed_code
from pipeline.tracking.evaluation_run import looks_logged, tested_networks
from pipeline.tracking.single_run import log_run
from pipeline.tracking.store import prepare_store, resolve_store
from pipeline.tune.journal.compatibility import check_same_code
from pipeline.tune.journal.records import JOURNAL, read_history
from pipeline.workspace import Workspace

PAGE, RESULTS = "index.html", "comparison.json"


@dataclass(frozen=True)
class Answer:
    """What the user says to searches that other code has begun: nothing, go on, or begin anew."""

    resume_anyway: bool = False
    new: bool = False


class StageFailed(Exception):
    """A stage has ended with another status than 0, and has said why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def check_methods(workspace: Workspace, given: str, answer: Answer, *, measured: bool = True) -> Iterator[str]:
    """Check every method, and say what all of it will take; starts nothing and leaves nothing in `results/`.

    Raises:
        UserError: the first thing that is wrong, with the method that it is wrong with.
    """
    params, comparison = _read(workspace, given)
    yield from _check(workspace, params, comparison, given, answer, measured=measured)


def _read(workspace: Workspace, given: str) -> tuple[Params, Comparison]:
    params = load_params(workspace.params)
    check_listed(workspace, params)
    return params, read_comparison(workspace, params, given)


def _check(
    workspace: Workspace, params: Params, comparison: Comparison, given: str, answer: Answer, *, measured: bool
) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        plans = plan_searches(workspace, comparison, Path(folder))
        next(iter(plans.values())).check_source_unchanged()
        check_group_by(workspace, params)
        yield from describe_comparison_plan(comparison, plans)
        for plan in plans.values():
            yield from _decide(plan, given, answer)
        if measured:
            yield from describe_total(plans)
        else:
            yield f"{'expected':<10}not measured (--no-measure): neither time, nor whether memory and disk will do"


def _decide(plan: Plan, given: str, answer: Answer) -> Iterator[str]:
    """Take the user's word on searches that other code has begun, or ask for it."""
    if answer.resume_anyway or answer.new:
        for task in plan.current_tasks():
            yield decide_on_changed_code(task, new=answer.new)
    for task in plan.current_tasks():
        try:
            check_same_code(read_history(task.folder / JOURNAL), task.header, task.folder)
        except UserError as error:
            told = str(error).replace("sar-search check --", f"sar-search compare --run {given} --check --")
            raise UserError(told) from None


def run_methods(workspace: Workspace, given: str, answer: Answer, *, measured: bool = True) -> int:
    """Search, retrain and test every method, print the table, and write the page. Returns the status to end with.

    Raises:
        UserError: another process is at work in this checkout, or the check has found a mistake.
    """
    params, comparison = _read(workspace, given)  # what they say now is what all of it works by
    with alone_with_dvc(workspace, "sar-search compare --run"):
        print("checking every method, and what all of it will take", flush=True)
        for line in _check(workspace, params, comparison, given, answer, measured=measured):
            print(line, flush=True)
        try:
            _run(run_dvc(["repro", "split"], workspace.root))
            for line in _run_all(workspace, params, comparison, given):
                print(line, flush=True)
        except StageFailed as ended:
            return ended.status
    return 0


def _run(status: int) -> None:
    if status:
        raise StageFailed(status)


def _run_all(workspace: Workspace, params: Params, comparison: Comparison, given: str) -> Iterator[str]:
    folder = workspace.comparison
    for left in folder.glob("*") if folder.exists() else ():
        if left.is_dir() and left.name not in {search.name for search in comparison.searches}:
            shutil.rmtree(left)  # of an earlier comparison; what it found is kept under state/
    own = {search.name: search.write(workspace, folder) for search in comparison.searches}
    methods = {method.name: own[method.name] for method in comparison.methods}
    for number, (name, each) in enumerate(own.items(), start=1):
        yield f"\n[{number}/{len(own)}] search of {'the control' if name == CONTROL else name}"
        _stage("search", each)
    values = _control_values(comparison, own.get(CONTROL))
    for name, each in methods.items():
        numbers = (0, *read_fold_searches(each.results))
        against = comparison.against(params.retrain.control)
        share_control(each, {number: values[number] for number in numbers}, params.retrain.control, against)
        yield f"\nretraining of {name}"
        shutil.rmtree(each.models, ignore_errors=True)  # as DVC removes a stage's outs
        _stage("retrain", each)
    yield from _same_seeds(methods)
    yield f"\ntesting all of them, which is {_look(workspace, params, methods)}"
    for name, each in methods.items():
        yield f"\n{name}"
        _stage("evaluate", each)
        _stage("report", each)
    cost = search_cost(own[CONTROL]) if CONTROL in own else None
    tuned = {path: values[0][path] for path in comparison.recipe}
    configuration = config_name(tuned) if tuned else "as the recipe has it"
    found = gather_results(methods, confidence=params.evaluate.confidence, configuration=configuration, cost=cost)
    rows = result_rows(found)
    page = folder / PAGE
    write_whole(page, render_comparison(comparison_page(params, found, rows, given)))
    write_whole(folder / RESULTS, json.dumps(found.content(), indent=2) + "\n")
    run = _log(workspace, params, found, folder)
    yield ""
    yield from describe_compared(found, rows)
    yield ""
    yield f"page       {page.relative_to(workspace.root)}"
    yield f"figures    {(folder / RESULTS).relative_to(workspace.root)}"
    yield f"MLflow     run {run}: `make ui`"


def _stage(name: str, own: Workspace) -> None:
    """Run a stage of a method, as DVC would run it of the checkout."""
    assert own.own is not None
    folder = str(own.own.relative_to(own.root))
    _run(run_python(["-m", f"pipeline.stages.{name}", METHOD, folder], own.root))


def _control_values(comparison: Comparison, tuned: Workspace | None) -> Mapping[int, Values]:
    """The control's configuration by the number of the fold, 0 of all images."""
    if tuned is None:
        return defaultdict(lambda: comparison.off)
    whole = {0: BestConfig.read(tuned.results / "search"), **read_fold_searches(tuned.results)}
    return {number: {**comparison.off, **found.best} for number, found in whole.items()}


def _same_seeds(methods: Mapping[str, Workspace]) -> Iterator[str]:
    """Where `retrain.seeds: auto` has come to other numbers for other methods, have all take the largest."""
    chosen = {name: ChosenSeeds.read(each.results / "retrain").chosen for name, each in methods.items()}
    most = max(chosen.values())
    for name, each in methods.items():
        if chosen[name] < most:
            yield f"\n{name}: {most} seeds in place of {chosen[name]}, as many as the others have"
            write_params(each, load_params(each.params).with_values({"retrain.seeds": most}, where=name))
            _stage("retrain", each)


def _retrained(each: Workspace) -> Retraining:
    return Retraining.read(each.results / "retrain")


def _look(workspace: Workspace, params: Params, methods: Mapping[str, Workspace]) -> str:
    """Write down that all networks are judged together, before any is: the methods' evaluations are parts of that."""
    data_hash = open_prepared(workspace.prepared).data_hash
    holdout = bool(len(read_split(workspace.split, data_hash=data_hash).test))
    of_methods = {name: tested_networks(each, _retrained(each), holdout=holdout) for name, each in methods.items()}
    networks = sorted({network for each in of_methods.values() for network in each})
    store = resolve_store(params.tracking.uri, workspace.anchor)
    prepare_store(store)
    logged = looks_logged(store, params, data_hash)
    look = record_look(
        workspace.state,
        data_hash,
        networks,
        commit=commit(workspace.root),
        by="compare",
        counted=logged.count,
        prior=logged.by_networks.get(hash_networks(networks)),
    )
    return f"look {look} at these test images"


def _log(workspace: Workspace, params: Params, found: ComparedResults, folder: Path) -> str:
    """A run for the comparison, with its page; the searches have theirs. Returns its id."""
    store = resolve_store(params.tracking.uri, workspace.anchor)
    names = ",".join(method.name for method in found.methods)
    metrics = {f"difference/{method.name}": method.member.comparison.difference for method in found.methods}
    metrics |= {
        f"attention_difference/{method.name}": method.attention.comparison.difference
        for method in found.methods
        if method.attention is not None
    }
    identity = [found.look, *([method.fingerprint, method.networks] for method in found.methods)]
    about = {"sar.kind": "comparison", "sar.methods": names, "sar.look": str(found.look)}
    return log_run(
        store,
        experiment=params.experiment,
        key=f"compare/{content_hash(identity)[:32]}",
        name=f"comparison of {names}",
        params={"methods": names, "control": found.against, "test_images": found.images},
        metrics=metrics,
        tags={**trace(workspace.root, found.data_hash), **about, "sar.answer": " ".join(describe_answer(found))},
        artifacts={"": folder / PAGE, "data": folder / RESULTS},
    )
