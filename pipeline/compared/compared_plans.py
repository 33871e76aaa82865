"""Plans of a comparison's searches. All are checked before the first search begins, and their cost is added up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.compared.compared_methods import CONTROL, Comparison
from pipeline.console.format import format_level, format_size, wrap_text
from pipeline.data.prepared.prepared import open_prepared
from pipeline.errors import UserError
from pipeline.inputs.guides import describe_guide
from pipeline.preflight.estimate import RemainingWork, check_space, describe_seconds, remaining_work
from pipeline.preflight.plan import Plan, make_plan
from pipeline.preflight.power import AUTO, describe_power, make_forecast, plan_seeds
from pipeline.preflight.search_budget import describe_trials, max_epochs
from pipeline.preflight.total_estimate import add_estimates, estimate_searches
from pipeline.preflight.validate import describe_probe_plan
from pipeline.provenance.weights_record import describe_weights
from pipeline.score.metrics.chosen_metric import chosen_metric
from pipeline.tune.journal.image_scores import read_scores
from pipeline.tune.journal.records import JOURNAL, SearchHistory, read_history
from pipeline.tune.requested import surplus_runs
from pipeline.tune.run_counts import budget_epochs
from pipeline.tune.selection.confirmed_tables import forecast_content
from pipeline.workspace import Workspace

WIDTH, INDENT = 100, 10


def plan_searches(workspace: Workspace, comparison: Comparison, folder: Path) -> dict[str, Plan]:
    """Writes the parameters of every search, and makes its plan.

    Args:
        workspace: the checkout.
        comparison: the methods.
        folder: folder in which every search has its own.

    Returns:
        The plan of each search by its name.

    Raises:
        UserError: the fault of the first search that has one, with its name.
    """
    plans = {}
    for search in comparison.searches:
        own = search.write(workspace, folder)
        try:
            plans[search.name] = make_plan(own)
        except UserError as error:  # the message must name the user's file, not the one written here
            raise UserError(f"{search.name}: {str(error).replace(search.space_in(own), search.file)}") from None
    return plans


def describe_comparison_plan(comparison: Comparison, plans: Mapping[str, Plan]) -> Iterator[str]:
    """Yields lines on what will be searched, retrained and tested.

    Args:
        comparison: the methods.
        plans: plan of each search by its name.
    """
    first = next(iter(plans.values()))
    params, folds = first.params, first.params.evaluate.folds
    control, runs = params.retrain.control, 1 if folds is None else folds + 1
    least, most = params.retrain.seed_bounds
    networks = (len(comparison.methods) + 1) * (most if folds is None else most * folds)
    images = f"{first.test_images:,} test images" if folds is None else f"all {first.images:,} images, in {folds} folds"
    epochs = [runs * max_epochs(plan.params, plan.space) for plan in plans.values()]
    names = ", ".join(method.name for method in comparison.methods)
    budget = "search.budget each" if folds is None else f"each on all images and outside of {folds} folds"
    yield _line("compare", f"{names}, each with {control}, on {images}")
    yield _line(
        "searches",
        f"{len(plans)} one after the other, {budget}: {', '.join(plans).replace(CONTROL, 'the control')}; at "
        f"most {sum(epochs):,} epochs",
    )
    yield _line("control", f"{comparison.against(control)}; the same for all")
    for added in dict.fromkeys(filter(None, comparison.added.values())):
        taking = [name for name, each in comparison.added.items() if each == added]
        what = f"{', '.join(added)} too, which another space does, so that all are treated alike"
        yield _line("", f"{', '.join(taking)} {'varies' if len(taking) == 1 else 'vary'} {what}")
    yield _line(
        "retrain",
        f"{'at most ' * (least < most)}{networks:,} networks, {most if least == most else f'{least} to {most}'} seeds "
        f"of each method and of the control; then all are tested at once, in one look",
    )
    for name, plan in plans.items():
        yield from _describe_search(name, plan)
    for plan in plans.values():
        for name, text in describe_probe_plan(plan.params).items():
            yield _line(name, text)
    yield from _describe_power(comparison, plans)


def _describe_search(name: str, plan: Plan) -> Iterator[str]:
    """Yields lines on what one search varies, and on the weights that its configurations begin with.

    Args:
        name: Name of the search.
        plan: Its plan.
    """
    varied = ", ".join(plan.space.dimensions)
    yield _line(_title(name), f"{describe_trials(plan.params, plan.space)} over {varied}")
    for words in describe_weights(plan.pretrained, plan.params.model.pretrained, plan.network.notes):
        yield _line("", words)
    for words in (*plan.freezing, *describe_guide(plan.params, plan.space).values()):
        yield _line("", words)


def _describe_power(comparison: Comparison, plans: Mapping[str, Plan]) -> Iterator[str]:
    """Yields the table of power for one method against the control, at the confidence that the family leaves to it.

    Spreads that the searches have measured so far are used if there are any.

    Args:
        comparison: The methods.
        plans: Plan of each search by its name.
    """
    first = next(iter(plans.values()))
    params, masks, measured = first.params, False, None
    for task in [task for plan in plans.values() for task in plan.current_tasks()[:1]]:
        masks = open_prepared(task.prepared).masks is not None
        trials = read_history(task.folder / JOURNAL).trials.values()
        if measured is None and trials:
            measured = forecast_content(trials, read_scores(task.folder), task.resources, params)
    words, size = chosen_metric(params).words, len(comparison.methods) * (1 + masks)
    forecast = make_forecast(params, measured, first.test_images)
    if params.retrain.seeds == AUTO:  # retraining chooses the number by one comparison alone
        chosen = plan_seeds(params, forecast, words)[0].seeds
        params = params.with_values({"retrain.seeds": chosen}, where="the plan")
    of_each = 1 - (1 - params.evaluate.confidence) / size
    yield from describe_power(params, replace(forecast, confidence=of_each), words, masks=False)
    if size > 1:
        yield _line(
            "",
            f"for each of {size} comparisons (every method with the control, by {words.label}"
            f"{' and by attention' * masks}), which hold together at {format_level(params.evaluate.confidence)}",
        )


def describe_total(plans: Mapping[str, Plan]) -> Iterator[str]:
    """Yields lines on the remaining time and disk space of each search and of all together.

    Args:
        plans: plan of each search by its name.

    Raises:
        UserError: memory, disk space or a budget does not suffice.
    """
    found = {}
    left_to_train = [name for name in plans if name != CONTROL]
    for name, plan in plans.items():
        parts, works = plan.expected_parts(), _remaining(plan)
        left = [(part, work) for part, work in zip(parts, works, strict=True) if work.trials + work.full_runs]
        # The control is retrained once, and counted with the first method.
        arms = 0 if name == CONTROL else 1 + (name == left_to_train[0])
        try:
            found[name] = estimate_searches(parts, left, arms=arms)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        told = "no estimate of time" if found[name].busy else describe_seconds(found[name].seconds)
        yield _line(_title(name), f"{told} for the search" if left else _describe_ended(plan))
    total = add_estimates(list(found.values()))
    yield from total.describe() if total.searches else [_line("expected", "nothing of the searches")]
    if total.searches and total.retraining is not None and not total.busy:
        both = tuple(a + b for a, b in zip(total.seconds, total.retraining, strict=True))
        yield _line("in all", describe_seconds((both[0], both[1])))
    yield _line("disk", f"about {format_size(total.disk_bytes)} of checkpoints in state/ at most, of all searches")
    check_space(next(iter(plans.values())).workspace.state, total.disk_bytes, "the checkpoints of all searches")


def _describe_ended(plan: Plan) -> str:
    """Returns a sentence on a search that has nothing left to train."""
    tasks = plan.current_tasks()
    names = f"search {', '.join(task.folder.name[:8] for task in tasks)}"
    budget, histories = budget_epochs(plan.params), [read_history(task.folder / JOURNAL) for task in tasks]
    if budget is not None and any(surplus_runs(each.trials, plan.params, plan.space) for each in histories):
        spent = max(sum(trial.trained_epochs for trial in each.trials.values()) for each in histories)
        return (
            f"nothing to train: {names} was begun with a larger budget ({spent} epochs are spent, {budget} allowed now)"
        )
    return f"nothing to train: {names} has ended"


def _title(name: str) -> str:
    name = "control" if name == CONTROL else name
    return name if len(name) < INDENT else f"{name} "


def _remaining(plan: Plan) -> list[RemainingWork]:
    parts, tasks = plan.expected_parts(), plan.current_tasks()
    histories: Sequence[SearchHistory] = [read_history(task.folder / JOURNAL) for task in tasks]
    return [
        remaining_work(part, history)
        for part, history in zip(parts, histories or [SearchHistory()] * len(parts), strict=True)
    ]


def _line(name: str, text: str) -> str:
    return wrap_text(text, WIDTH, name=f"{name:<{INDENT}}")
