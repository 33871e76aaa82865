"""`sar-search compare --run METHODS`: searches and retrains several methods, and compares them as one family.

Each search has a folder, `results/compare/<name>/`, with its params.yaml and the outputs of its stages.
Neither the user's params.yaml nor the pipeline's own `results/` are changed. Data and split come from DVC, as
in the pipeline.

Searches, retraining and evaluations are stored under `state/`, each under a hash of everything that decides
it. So the same command resumes after an interruption, and finished work of other runs is not repeated.

All methods are searched, then all are retrained. Only then are the test images used, in one look for all
networks.
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
from pipeline.commands.check import check_listed, decide_on_searches, decisions
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
from pipeline.state.looks import hash_networks, record_look, write_comparison_look
from pipeline.tracking.evaluation_run import looks_logged, tested_networks
from pipeline.tracking.single_run import log_run
from pipeline.tracking.store import prepare_store, resolve_store
from pipeline.workspace import Workspace

PAGE, RESULTS = "index.html", "comparison.json"
"""Files of a comparison: its page, and its figures as JSON."""


@dataclass(frozen=True)
class Answer:
    """The user's decision on searches that other code has begun; without one, the user is asked.

    Attributes:
        resume_anyway: whether to resume them.
        new: whether to begin new searches in their place.
    """

    resume_anyway: bool = False
    new: bool = False


class StageFailed(Exception):
    """A stage has ended with a status other than 0, and has printed why.

    Args:
        status: the exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def check_methods(workspace: Workspace, given: str, answer: Answer, *, measured: bool = True) -> Iterator[str]:
    """Checks every method, and yields the lines of the plan. Starts no search, and leaves `results/` unchanged.

    Args:
        workspace: the checkout.
        given: argument of `--run`: names or files of search spaces, with commas between.
        answer: the user's decision on searches that other code has begun.
        measured: False to measure no training steps.

    Raises:
        UserError: the first fault found, with its method.
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
    """Checks every method, and yields the lines of the plan.

    Args:
        workspace: the checkout.
        params: its parameters.
        comparison: the methods.
        given: argument of `--run`.
        answer: the user's decision on searches that other code has begun.
        measured: False to measure no training steps.
    """
    with tempfile.TemporaryDirectory() as folder:
        plans = plan_searches(workspace, comparison, Path(folder))
        next(iter(plans.values())).check_source_unchanged()
        check_group_by(workspace, params)
        yield from describe_comparison_plan(comparison, plans)
        yield from decisions([line for plan in plans.values() for line in _decide(plan, given, answer)])
        if measured:
            yield from describe_total(plans)
        else:
            yield f"{'expected':<10}not measured (--no-measure): time is unknown; memory and disk are unchecked"


def _decide(plan: Plan, given: str, answer: Answer) -> Iterator[str]:
    """Applies the user's decision to searches that other code has begun.

    Args:
        plan: the plan of one method.
        given: argument of `--run`, for the message.
        answer: the decision.

    Raises:
        UserError: other code has begun a search, and there is no decision.
    """
    try:
        yield from decide_on_searches(plan, resume_anyway=answer.resume_anyway, new=answer.new)
    except UserError as error:
        told = str(error).replace("sar-search check --", f"sar-search compare --run {given} --")
        raise UserError(told) from None


def run_methods(workspace: Workspace, given: str, answer: Answer, *, measured: bool = True) -> int:
    """Searches, retrains and tests every method, prints the table, and writes the page.

    Args:
        workspace: the checkout.
        given: argument of `--run`: names or files of search spaces, with commas between.
        answer: the user's decision on searches that other code has begun.
        measured: False to measure no training steps.

    Returns:
        The exit status.

    Raises:
        UserError: another process is at work in this checkout, or the check has found a fault.
    """
    params, comparison = _read(workspace, given)  # read once, so that later edits of the files change nothing
    with alone_with_dvc(workspace, "sar-search compare --run"):
        print("checking every method, and estimating all runs", flush=True)
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
    """Raises `StageFailed` for a status other than 0."""
    if status:
        raise StageFailed(status)


def _run_all(workspace: Workspace, params: Params, comparison: Comparison, given: str) -> Iterator[str]:
    """Runs the stages of all methods, and yields the lines to print.

    Args:
        workspace: the checkout.
        params: its parameters.
        comparison: the methods.
        given: argument of `--run`, for the page.
    """
    folder = workspace.comparison
    for left in folder.glob("*") if folder.exists() else ():
        if left.is_dir() and left.name not in {search.name for search in comparison.searches}:
            shutil.rmtree(left)  # of an earlier comparison, whose results are still under state/
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
        shutil.rmtree(each.models, ignore_errors=True)  # as DVC removes a stage's outputs
        _stage("retrain", each)
    yield from _same_seeds(methods)
    look = _look(workspace, params, methods)
    write_comparison_look(folder, look)
    yield f"\ntesting all of them, which is look {look} at these test images"
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
    """Runs a stage of a method in its own folder."""
    assert own.own is not None
    folder = str(own.own.relative_to(own.root))
    _run(run_python(["-m", f"pipeline.stages.{name}", METHOD, folder], own.root))


def _control_values(comparison: Comparison, tuned: Workspace | None) -> Mapping[int, Values]:
    """Returns the control's configuration by number of the fold, where 0 stands for all images."""
    if tuned is None:
        return defaultdict(lambda: comparison.off)
    whole = {0: BestConfig.read(tuned.results / "search"), **read_fold_searches(tuned.results)}
    return {number: {**comparison.off, **found.best} for number, found in whole.items()}


def _same_seeds(methods: Mapping[str, Workspace]) -> Iterator[str]:
    """Retrains methods again with more seeds, where `retrain.seeds: auto` chose different numbers.

    All methods then have the largest of these numbers.
    """
    chosen = {name: ChosenSeeds.read(each.results / "retrain").chosen for name, each in methods.items()}
    most = max(chosen.values())
    for name, each in methods.items():
        if chosen[name] < most:
            yield f"\n{name}: {most} seeds in place of {chosen[name]}, as many as the others have"
            write_params(each, load_params(each.params).with_values({"retrain.seeds": most}, where=name))
            _stage("retrain", each)


def _look(workspace: Workspace, params: Params, methods: Mapping[str, Workspace]) -> int:
    """Records, before any network is tested, that all networks are tested together.

    The methods' own evaluations are then parts of that look, also of networks that an earlier look has tested alone.

    Args:
        workspace: the checkout.
        params: its parameters.
        methods: workspace of each method by its name.

    Returns:
        The number of the look.
    """
    data_hash = open_prepared(workspace.prepared).data_hash
    holdout = bool(len(read_split(workspace.split, data_hash=data_hash).test))
    retrained = {each: Retraining.read(each.results / "retrain") for each in methods.values()}
    tested = (tested_networks(each, found, holdout=holdout) for each, found in retrained.items())
    networks = sorted({network for each in tested for network in each})
    store = resolve_store(params.tracking.uri, workspace.anchor)
    prepare_store(store)
    logged = looks_logged(store, params, data_hash)
    return record_look(
        workspace.state,
        data_hash,
        networks,
        commit=commit(workspace.root),
        by="compare",
        counted=logged.count,
        prior=logged.by_networks.get(hash_networks(networks)),
    )


def _log(workspace: Workspace, params: Params, found: ComparedResults, folder: Path) -> str:
    """Logs the comparison, with its page, as a run of its own. The searches have theirs.

    Args:
        workspace: the checkout.
        params: its parameters.
        found: the results.
        folder: folder of the page.

    Returns:
        The run's id.
    """
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
