"""Power analysis in words, before training: the difference that images and seeds can show, and the seeds for `auto`.

Everything is computed from a search's entries in summary.json (`forecast`, `spent`) and from the parameters, so that
`retrain.seeds: auto` always gives the same number.
"""

import math
from dataclasses import dataclass

from pipeline.artifacts.search_result import SearchSummary
from pipeline.config import Params
from pipeline.console.format import format_count, format_level, format_percent
from pipeline.errors import UserError
from pipeline.score.forecast import (
    FLAT,
    LEAST_GAIN,
    LEAST_SEEDS,
    LIMITED,
    REACHED,
    UNFORETOLD,
    UNTESTABLE,
    Components,
    Expected,
    Forecast,
    SeedPlan,
    assumed_components,
    choose_seeds,
)
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords
from pipeline.tune.budget import HOUR, Budget
from pipeline.tune.objectives.objectives import is_searched_for, objective_of

AUTO = "auto"
SHOWN = (2, 3, 5, 8, 10, 20)
"""Numbers of seeds in the table's rows, beside the number asked for."""

UNFORETOLD_SEEDS = 5
"""Number of seeds that `auto` takes if there is no forecast for another metric than accuracy."""


@dataclass(frozen=True)
class RunCost:
    """Cost of a retraining run at the pace of the search, and what the search has spent.

    Attributes:
        seconds: Seconds that a run takes of one worker.
        together: Number of runs at a time.
        gpus: GPUs of a run, or a fraction of one.
        spent_s: Seconds that the search took.
        spent_gpu_s: GPU-seconds that the search took.
    """

    seconds: float
    together: int
    gpus: float
    spent_s: float
    spent_gpu_s: float


def check_seeds(params: Params) -> None:
    """Checks that `auto` is used only if the search optimises the metric by which the arms are compared.

    Args:
        params: All parameters.

    Raises:
        UserError: retrain.seeds is `auto`, and the search optimises another metric.
    """
    if params.retrain.seeds == AUTO and not is_searched_for(params):
        raise UserError(
            "params.yaml: retrain.seeds: auto derives the number of seeds from a search for evaluate.metric, which is "
            f"{params.evaluate.metric}, but this search is for {params.search.objectives[0]}. Put "
            f"{objective_of(params.evaluate.metric)} first in search.objectives, or give a number of seeds."
        )


def make_forecast(params: Params, measured: Components | None, test_images: int) -> Forecast:
    """Returns the forecast for a comparison of the arms.

    Args:
        params: All parameters.
        measured: Variance components that the search has measured; None to assume typical ones.
        test_images: Number of test images, of all folds together.
    """
    components = assumed_components("no configuration has been confirmed yet") if measured is None else measured
    return Forecast(components, test_images, params.evaluate.confidence, params.evaluate.folds or 1)


def run_cost(params: Params, summary: SearchSummary) -> RunCost | None:
    """Returns the cost of a retraining run, from the search's own records.

    The run trains on train and val, for as many epochs as a trial. As many runs go in parallel as trials did, up to
    `retrain.max_concurrent_runs`.

    Args:
        params: All parameters.
        summary: Summary of the search.

    Returns:
        The cost; None if the summary lacks what is needed.
    """
    spent, trained, machine = summary.spent, summary.epochs.spent, summary.forecast
    if machine is None or not trained:
        return None
    most = params.retrain.max_concurrent_runs or machine.max_concurrent
    return RunCost(
        seconds=spent.worker_hours * HOUR / trained * params.train.epochs / (1 - params.split.val_fraction),
        together=max(1, min(most, machine.max_concurrent)),
        gpus=machine.gpus,
        spent_s=spent.hours * HOUR,
        spent_gpu_s=spent.gpu_hours * HOUR,
    )


def affordable_seeds(params: Params, cost: RunCost) -> int | None:
    """Returns the number of seeds for which the rest of `search.budget` suffices; None without a limit."""
    budget, arms = Budget(**params.search.budget.model_dump()), 2 * (params.evaluate.folds or 1)
    found = []
    if budget.hours is not None and cost.seconds > 0:
        rounds = math.floor(max(0.0, budget.hours * HOUR - cost.spent_s) / cost.seconds)
        found.append(rounds * cost.together // arms)
    if (limit := budget.gpu_limit) is not None and cost.seconds * cost.gpus > 0:
        found.append(math.floor(max(0.0, limit[0] - cost.spent_gpu_s) / (arms * cost.seconds * cost.gpus)))
    return min(found, default=None)


def plan_seeds(
    params: Params, forecast: Forecast, words: MetricWords, cost: RunCost | None = None
) -> tuple[SeedPlan, str]:
    """Returns the number of seeds for `auto`, and the reason in a sentence.

    Args:
        params: All parameters.
        forecast: The forecast of the comparison.
        words: Metric of `evaluate.metric`, in words.
        cost: Cost of a retraining run; None to ignore the budget.
    """
    retrain = params.retrain
    if _is_unforetold(forecast, words):
        seeds = min(UNFORETOLD_SEEDS, retrain.max_seeds)
        return SeedPlan(seeds, UNFORETOLD), (
            f"{seeds} seeds each; there is no forecast for {words.label}, since {forecast.components.assumed}"
        )
    margin = words.margin
    affordable = None if cost is None else affordable_seeds(params, cost)
    plan = choose_seeds(forecast, margin, max_seeds=retrain.max_seeds, affordable=affordable)
    if plan.reason == REACHED:
        why = (
            f"the fewest with which, if there is no {words.harm}, four of five evaluations rule out one of "
            f"{words.format_margin()}"
        )
    elif plan.reason == UNTESTABLE:
        why = "the fewest that give an interval, which one test image does not give with any number"
    elif plan.reason == FLAT:
        why = "a further one would narrow the interval by under 5 %"
    elif plan.reason == LIMITED:
        why = "as many as retrain.max_seeds allows"
    elif (affordable or 0) < LEAST_SEEDS:
        why = "search.budget has nothing left for more, and with fewer there is no interval"
    else:
        why = "as many as search.budget has left"
    power = _say(forecast.power(plan.seeds, margin))
    return plan, f"{plan.seeds} seeds each, {why}; power {power}"


def describe_power(
    params: Params,
    forecast: Forecast,
    words: MetricWords,
    *,
    masks: bool,
    cost: RunCost | None = None,
    brief: bool = False,
) -> list[str]:
    """Returns a table of seeds, half-width and power, in lines; then what the images limit, and the number for `auto`.

    Args:
        params: All parameters.
        forecast: The forecast of the comparison.
        words: Metric of `evaluate.metric`, in words.
        masks: Whether attention is tested too; the first endpoint may then have to be decided at half of alpha.
        cost: Cost of a retraining run; None to ignore the budget.
        brief: Whether the table has the row of the number of seeds alone, since all of it was printed before.
    """
    asked = params.retrain.seeds
    if _is_unforetold(forecast, words):
        return [f"{'power':<10}{_not_foretold(params, forecast, words)}"]
    margin = words.margin
    auto = plan_seeds(params, forecast, words, cost) if asked == AUTO else None
    number = asked if isinstance(asked, int) else auto[0].seeds if auto else 0
    level, images = format_level(forecast.confidence), _describe_images(forecast)
    lines = [
        f"{'power':<10}the chance to show at {level} that {words.label} {_loses(words)} no more than "
        f"{words.format_margin()}, where it {_loses(words)} none, on {images};",
        f"{'':<10}{describe_source(forecast)}",
        f"{'':<10}{'seeds':>5}  {_width_title(words):<22}  power",
    ]
    for seeds in [number] if brief else sorted({*SHOWN, number}):
        half, power = forecast.expected_half_width(seeds), forecast.power(seeds, margin)
        mark = "" if seeds != number else "  <- retrain.seeds"
        if math.isinf(half.value):
            lines.append(f"{'':<10}{seeds:>5}  {'no interval':<22}  none{mark}")
        else:
            lines.append(f"{'':<10}{seeds:>5}  {_width(half, words):<22}  {_say(power)}{mark}")
    lines.append(f"{'':<10}{_floor(forecast, words, number)}")
    if masks and number >= LEAST_SEEDS and not math.isinf(forecast.floor):
        # Holm: the hypothesis with the larger p is decided at alpha if the other one was shown, else at half of alpha.
        strict = Forecast(forecast.components, forecast.test_images, (1 + forecast.confidence) / 2)
        lines.append(
            f"{'':<10}where attention is not shown to be better, {words.label} is decided at "
            f"{format_level(strict.confidence)}: with {number} seeds {_say(strict.power(number, margin))}"
        )
    if auto is not None:
        lines.append(f"{'':<10}retrain.seeds: auto, by the current forecast: {auto[1]}")
    return lines


def describe_expectation(params: Params, forecast: Forecast, seeds: int, words: MetricWords) -> str:
    """Returns the expected half-width and power with the seeds that were used, in a sentence for the report.

    Args:
        params: All parameters.
        forecast: The forecast of the comparison.
        seeds: Number of seeds of each arm.
        words: Metric of the evaluation, in words.
    """
    if _is_unforetold(forecast, words):
        return f"Forecast before the test: {_not_foretold(params, forecast, words)}."
    half = forecast.expected_half_width(seeds)
    if math.isinf(half.value):
        return "Forecast before the test: no interval."
    return (
        f"Forecast before the test, with {format_count(seeds, 'seed')}: an interval of "
        f"\N{PLUS-MINUS SIGN} {_width(half, words)}{' points' if words.in_points else ''}, and "
        f"a chance of {_say(forecast.power(seeds, words.margin))} to show no {words.harm} of more than "
        f"{words.format_margin()} where there is none ({describe_source(forecast)})."
    )


def _is_unforetold(forecast: Forecast, words: MetricWords) -> bool:
    """Returns whether there is no forecast: nothing was measured, and the assumptions are about accuracy only."""
    return forecast.components.assumed is not None and words.key != ACCURACY_WORDS.key


def _not_foretold(params: Params, forecast: Forecast, words: MetricWords) -> str:
    """Returns in words why there is no forecast.

    Args:
        params: All parameters.
        forecast: The forecast of the comparison.
        words: Metric of `evaluate.metric`, in words.
    """
    said = f"no forecast for {words.label}, since {forecast.components.assumed}"
    if is_searched_for(params):
        return said
    return f"{said}; a search for {objective_of(params.evaluate.metric)} (search.objectives) gives one"


def _loses(words: MetricWords) -> str:
    return "rises by" if words.lower_is_better else "loses"


def _width_title(words: MetricWords) -> str:
    return "half-width, points" if words.in_points else "half-width"


def _floor(forecast: Forecast, words: MetricWords, seeds: int) -> str:
    """Returns the half-width that the test images leave with any number of seeds, and what would lower it, in words.

    Args:
        forecast: The forecast of the comparison.
        words: Metric of `evaluate.metric`, in words.
        seeds: Number of seeds of each arm.
    """
    images, margin = _describe_images(forecast), words.margin
    if math.isinf(forecast.floor):
        return "one test image gives no interval; there must be at least two"
    seeds = max(LEAST_SEEDS, seeds)  # one seed gives no interval
    least, enough = forecast.images_needed(margin), forecast.images_needed(margin, seeds)
    most = max(*SHOWN, seeds)
    floor, reached = forecast.floor, forecast.floor_up_to(most)
    if words.format_size(max(floor, reached), 2) == words.format_size(0.0, 2):  # by seeds alone
        said = f"with {images}, no limit to the half-width was measured but that of the seeds"
        return said + _images_to_add(forecast, least, enough, seeds)
    if reached > (1 + LEAST_GAIN) * floor:
        floor = reached
        limit = (
            f"up to {most} seeds, since so few images tell the arms apart that half an image is added in each direction"
        )
    else:
        limit = "any number of seeds"
    said = f"with {images}, the half-width is at least {words.format_size(floor, 2)} with {limit}"
    return said + (_images_to_add(forecast, least, enough, seeds) or ", which is within the margin")


def _images_to_add(forecast: Forecast, least: int | None, enough: int | None, seeds: int) -> str:
    """Returns how many test images a power of 80 % needs, as the end of a sentence; empty if there are enough.

    Args:
        forecast: The forecast of the comparison.
        least: Test images that are needed with endlessly many seeds; None if no number is enough.
        enough: Test images that are needed with `seeds`; None if no number is enough.
        seeds: Number of seeds of each arm.
    """
    if least is not None and least > forecast.test_images:
        more = "more images" if forecast.folds > 1 else "split.test_fraction, or more images"
        return f"; a power of 80 % needs some {_round(least):,} test images or more, however many seeds ({more})"
    if enough is None:
        return f"; with {seeds} seeds, no number of test images gives a power of 80 %"
    if enough > forecast.test_images:
        return f"; with {seeds} seeds, a power of 80 % needs some {_round(enough):,} test images"
    return ""


def _describe_images(forecast: Forecast) -> str:
    folds = f" of {forecast.folds} folds" if forecast.folds > 1 else ""
    return f"{format_count(forecast.test_images, 'test image')}{folds}"


def describe_source(forecast: Forecast) -> str:
    """Returns in words what the forecast is computed from.

    Args:
        forecast: The forecast of the comparison.
    """
    parts = forecast.components
    if parts.assumed:
        return f"assumed, since {parts.assumed}"
    return (
        f"by {parts.configurations} configurations with {parts.seeds} further seeds each, on {parts.images:,} "
        "validation images of the search"
    )


def _width(half: Expected, words: MetricWords) -> str:
    said = words.format_size(half.value, 2, unit=False)
    if half.low is None or half.high is None:
        return said
    low, high = (words.format_size(end, 2, unit=False) for end in (half.low, half.high))
    return f"{said} ({low} to {high})"


def _say(power: Expected) -> str:
    said = format_percent(power.value, 0)
    if power.low is None or power.high is None:
        return said
    return f"{said} ({100 * power.low:.0f} to {100 * power.high:.0f} %)"


def _round(count: int) -> int:
    """Rounds up to two digits."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step
