"""Plans of a comparison's searches. All are checked before the first search begins, and their cost is added up."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.compared.compared_methods import CONTROL, Comparison
from pipeline.console.format import format_size, wrap_text
from pipeline.errors import UserError
from pipeline.preflight.estimate import RemainingWork, check_space, describe_seconds, remaining_work
from pipeline.preflight.plan import Plan, make_plan
from pipeline.preflight.search_budget import max_epochs
from pipeline.preflight.total_estimate import add_estimates, estimate_searches
from pipeline.preflight.validate import describe_probe_plan
from pipeline.tune.journal.records import JOURNAL, SearchHistory, read_history
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
    for plan in plans.values():
        for name, text in describe_probe_plan(plan.params).items():
            yield _line(name, text)


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
        told = told if left else "nothing, all of its runs have ended,"
        name = "control" if name == CONTROL else name
        yield _line(name if len(name) < INDENT else f"{name} ", f"{told} for the search")
    total = add_estimates(list(found.values()))
    yield from total.describe() if total.searches else [_line("expected", "nothing of the searches")]
    if total.searches and total.retraining is not None and not total.busy:
        both = tuple(a + b for a, b in zip(total.seconds, total.retraining, strict=True))
        yield _line("in all", describe_seconds((both[0], both[1])))
    yield _line("disk", f"about {format_size(total.disk_bytes)} of checkpoints in state/ at most, of all searches")
    check_space(next(iter(plans.values())).workspace.state, total.disk_bytes, "the checkpoints of all searches")


def _remaining(plan: Plan) -> list[RemainingWork]:
    parts, tasks = plan.expected_parts(), plan.current_tasks()
    histories: Sequence[SearchHistory] = [read_history(task.folder / JOURNAL) for task in tasks]
    return [
        remaining_work(part, history)
        for part, history in zip(parts, histories or [SearchHistory()] * len(parts), strict=True)
    ]


def _line(name: str, text: str) -> str:
    return wrap_text(text, WIDTH, name=f"{name:<{INDENT}}")
