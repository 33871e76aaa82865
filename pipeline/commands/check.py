"""Check before a run: validates all that can be validated, and estimates the search from a few measured steps."""

import json
import shlex
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from pipeline.artifacts.agreement import check_dvc_lock
from pipeline.artifacts.best_config import BestConfig
from pipeline.artifacts.search_result import SearchSummary
from pipeline.compute.temp_dirs import check_temporary
from pipeline.config import Params, parameters
from pipeline.data.prepared.prepared import open_prepared
from pipeline.environment import removed_variables
from pipeline.errors import UserError, single_item_command
from pipeline.inputs.data_split import check_group_by
from pipeline.preflight.estimate import remaining_work
from pipeline.preflight.image_sizes import describe_masks, describe_sizes
from pipeline.preflight.plan import Plan, make_plan
from pipeline.preflight.power import describe_power, make_forecast, run_cost
from pipeline.preflight.profile_budget import MOST_S
from pipeline.preflight.search_budget import check_limits
from pipeline.preflight.total_estimate import describe_estimates
from pipeline.preflight.up_to_date import finished_search
from pipeline.provenance.git import unknown_files
from pipeline.provenance.stage_inputs import absent_parameters
from pipeline.provenance.weights_record import as_recorded
from pipeline.score.metrics.chosen_metric import chosen_metric
from pipeline.state.current_search import current_search
from pipeline.state.search_summary import NOTHING_TO_DECIDE, decide_on_changed_code, describe_start
from pipeline.tune.journal.compatibility import check_same_code
from pipeline.tune.journal.image_scores import read_scores
from pipeline.tune.journal.records import JOURNAL, SearchHistory, read_history
from pipeline.tune.ray.placement import inspect_cluster
from pipeline.tune.selection.confirmed_tables import forecast_content
from pipeline.tune.task import SearchTask
from pipeline.workspace import Workspace


def run_check(
    workspace: Workspace,
    *,
    resume_anyway: bool = False,
    new: bool = False,
    measured: bool = True,
    afresh: bool = False,
) -> Iterator[str]:
    """Checks everything, measures, and yields the lines of the plan. Starts no search.

    Args:
        workspace: the checkout.
        resume_anyway: whether the user wants to resume a search that other code began.
        new: whether the user wants to begin a new search in its place.
        measured: False to measure no training steps.
        afresh: whether stages that are up to date run too.

    Raises:
        UserError: the first fault found.
    """
    check_temporary()
    plan = make_plan(workspace)
    check_listed(workspace, plan.params)
    plan.check_source_unchanged()
    check_weights_unchanged(plan)
    check_dvc_lock(workspace, plan.params)
    check_group_by(workspace, plan.params)
    yield plan.describe()
    if ignored := removed_variables():
        said = "environment variables that would override params.yaml (docs/environment.md)"
        yield f"{'ignored':<10}{', '.join(ignored)}: {said}"
    yield from describe_sizes(workspace, plan.params)
    yield from describe_masks(workspace, plan.params)
    if unknown := unknown_files(workspace.root, "search_spaces", plan.params.search.space):
        yield f"{'git':<10}{unknown_words(unknown, plan.params.search.space)}"
    tasks, done = (yield from decide_on_searches(plan, resume_anyway=resume_anyway, new=new)), None
    plans = plan.expected_parts()
    histories = [read_history(each.folder / JOURNAL) for each in tasks] or [SearchHistory()] * len(plans)
    if tasks:
        done = None if afresh or resume_anyway or new else finished_search(tasks[0], workspace.results)
        if done:
            yield f"search {tasks[0].folder.name[:8]}: {done.reason}"
        else:
            for each, task, history in zip(plans, tasks, histories, strict=True):
                work = remaining_work(each, history)
                yield describe_start(task, workspace.searches, nothing_left=not work.trials + work.full_runs)
    elif resume_anyway or new:
        yield "no data are prepared yet, so no search was begun; there is nothing to decide"
    first = tasks[0] if tasks else None
    yield from describe_expected_power(plan, first)
    if plan.resources.address is not None:
        yield from check_cluster(plan, first)
    if done:
        check_limits(plan.params, gpus=plan.resources.gpus)
        both = ", nor of retraining" if done.retrained else ""
        yield f"{'expected':<10}nothing of the search{both}: the finished runs have these parameters"
        return
    if not measured:
        check_limits(plan.params, gpus=plan.resources.gpus)
        yield f"{'expected':<10}not measured (--no-measure): time is unknown; memory, disk and budget are unchecked"
        return
    if not sys.stdout.isatty():  # a terminal shows how far the measurement is
        yield f"measuring training steps, up to {MOST_S:.0f} s"
    yield from describe_estimates(plans, histories)


def decide_on_searches(plan: Plan, *, resume_anyway: bool, new: bool) -> Generator[str, None, list[SearchTask]]:
    """Applies the user's decision to searches that other code has begun, and yields a line for each.

    Args:
        plan: the plan of the run.
        resume_anyway: whether the user wants to resume them.
        new: whether the user wants to begin new searches in their place.

    Returns:
        The searches that will run.

    Raises:
        UserError: other code has begun a search, and there is no decision.
    """
    tasks = plan.current_tasks()
    if resume_anyway or new:
        yield from decisions([decide_on_changed_code(each, new=new) for each in tasks])
        tasks = plan.current_tasks()  # a new search has other tasks
    for each in tasks:
        check_same_code(read_history(each.folder / JOURNAL), each.header, each.folder)
    return tasks


def decisions(sentences: Sequence[str]) -> list[str]:
    """Returns the sentences on searches about which there was something to decide; one if there was none.

    Args:
        sentences: a sentence on each search.
    """
    return [line for line in sentences if line != NOTHING_TO_DECIDE] or list(sentences[:1])


def describe_expected_power(plan: Plan, task: SearchTask | None) -> Iterator[str]:
    """Yields lines on how large a difference the images and seeds can show.

    Measured spreads of this search's confirmations are used as far as there are any.

    Args:
        plan: the plan of the run.
        task: the search, or None before the data are prepared.
    """
    workspace, params, measured, cost, masks = plan.workspace, plan.params, None, None, False
    if task is not None:
        masks = open_prepared(workspace.prepared).masks is not None
        trials = read_history(task.folder / JOURNAL).trials.values()
        measured = forecast_content(trials, read_scores(task.folder), task.resources, params) if trials else None
        try:
            summary = SearchSummary.read(workspace.results / "search")
            if summary.fingerprint == task.fingerprint and summary.forecast is not None:
                measured, cost = summary.forecast, run_cost(params, summary)
        except UserError:
            pass  # no results yet, or broken ones, which the stages report
    words = chosen_metric(params).words
    yield from describe_power(params, make_forecast(params, measured, plan.test_images), words, masks=masks, cost=cost)


def unknown_words(unknown: Sequence[str], used: str) -> str:
    """Returns advice for experiments about search spaces that git does not track.

    Args:
        unknown: paths of the untracked files.
        used: the path of `search.space`, which is named if it is among them.
    """
    first = next((name for name in unknown if Path(name) == Path(used)), unknown[0])
    others = len(unknown) - 1
    more = f" and {others} other{'s' * (others > 1)}" if others else ""
    return (
        f"does not know {first}{more}: `git add {shlex.quote(first)}` before `dvc exp run --temp` or `--queue`, which "
        "copy only files that git tracks"
    )


def check_listed(workspace: Workspace, params: Params) -> None:
    """Checks that params.yaml contains every parameter that dvc.yaml lists.

    Without one, DVC would not run the stage.

    Args:
        workspace: the checkout.
        params: its parameters, for the default values in the message.

    Raises:
        UserError: parameters are missing; the message has all of them in the form to write.
    """
    absent = absent_parameters(workspace)
    # Users may add parameters to dvc.yaml for stages of their own; their values are unknown here.
    lines = [f"  {path}: {json.dumps(params.value(path)) if path in parameters() else '?'}" for path in absent]
    if lines:
        raise UserError(
            "params.yaml: lacks parameters that dvc.yaml lists, and DVC runs no stage whose parameters are not all in "
            "the file. Write these there, each within its section; the values are those that hold now:\n"
            + "\n".join(lines)
        )


def check_cluster(plan: Plan, task: SearchTask | None) -> Iterator[str]:
    """Checks every node of the cluster, and yields a line for each.

    Args:
        plan: the plan of the run.
        task: the search, or None before the data are prepared.

    Raises:
        UserError: the faults of all nodes.
    """
    made = task is not None and task.split.is_file()
    for answer in inspect_cluster(task or plan.task_without_data(), data=made):
        node = answer.node
        yield f"{'node':<10}{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs"


def check_weights_unchanged(plan: Plan) -> None:
    """Checks that results/ were made with the current pretrained weights.

    DVC sees the parameter that names the weights, but not a change of the weights themselves.

    Raises:
        UserError: the weights, and nothing else, differ from those of the search in results/. The message has
            the choices.
    """
    try:
        found = BestConfig.read(plan.workspace.results / "search")
    except UserError:
        return
    then = as_recorded(plan.pretrained, found.weights)
    changed = [spec for spec, each in then.items() if each.sha256 != plan.pretrained[spec].sha256]
    current = current_search(plan.workspace, plan.params, then) if changed else None
    if current is None or current.folder.name != found.fingerprint[:16]:
        return  # another parameter has changed as well, and DVC sees that
    spec = changed[0]
    now, was = plan.pretrained[spec], found.weights[spec]
    means = f" ({was.resolved} then, {now.resolved} now)" if now.resolved != was.resolved else ""
    raise UserError(
        f"{spec}: its weights are not those that results/ were made with: sha256 {was.sha256[:8]} then, "
        f"{now.sha256[:8]} now{means}, and DVC does not detect that.\n"
        f"Run `{single_item_command('search')}` to search with the current ones, then repeat this command. Or restore "
        "the earlier ones: put the file back, or name the version of the registered model."
    )
