"""Claims about the forecast in words, about what `auto` comes to within a budget, and about what it refuses."""

import itertools
from dataclasses import asdict, replace
from typing import Any

import pytest
from support.partial_results import filled

from pipeline.artifacts.search_result import SearchForecast, SearchSummary
from pipeline.config import Params
from pipeline.preflight.power import (
    RunCost,
    affordable_seeds,
    describe_expectation,
    describe_power,
    make_forecast,
    plan_seeds,
    run_cost,
)
from pipeline.score.metrics.chosen_metric import chosen_metric
from pipeline.score.metrics.wording import ACCURACY_WORDS

MEASURED = SearchForecast(
    config_seed=5e-5,
    residual=0.008,
    config_image=0.001,
    residual_error=0.001,
    image_error=0.0005,
    images=287,
    configurations=5,
    seeds=2,
    assumed=None,
    max_concurrent=2,
    gpus=0.0,
)

CONTENT: dict[str, Any] = {
    "forecast": asdict(MEASURED),
    "epochs": {"spent": 100},
    "spent": {"hours": 0.5, "worker_hours": 1.0, "gpu_hours": 0.25},
}
SUMMARY = filled(SearchSummary, **CONTENT)


def given(**settings: Any) -> Params:
    return Params().with_values({name.replace("__", "."): value for name, value in settings.items()}, where="test")


def table(params: Params, measured: SearchForecast | None, images: int, **about: Any) -> list[str]:
    return describe_power(
        params, make_forecast(params, measured, images), chosen_metric(params).words, **{"masks": False, **about}
    )


def below_the_table(lines: list[str]) -> str:
    """The sentences under the rows, joined again."""
    rows = max(place for place, line in enumerate(lines) if line[10:15].strip().isdigit())
    return " ".join(line.strip() for line in lines[rows + 1 :])


def floor(params: Params, measured: SearchForecast | None, images: int) -> str:
    return below_the_table(table(params, measured, images))


def test_table_before_anything_ran_says_what_it_assumes() -> None:
    lines = table(Params(), None, 359)
    assert lines == [
        "power     the chance to show at 95 % that accuracy loses no more than 1 point, where it loses none, on 359 test "
        "images;",
        "          assumed, since no configuration has been confirmed yet",
        "          seeds  half-width, points      power",
        "              2  3.82                    19 %",
        "              3  1.60                    28 %",
        "              5  1.01                    50 %  <- retrain.seeds",
        "              8  0.79                    70 %",
        "             10  0.73                    78 %",
        "             20  0.60                    91 %",
        "          with 359 test images, the half-width is at least 0.46 points with any number of seeds; with 5 seeds, "
        "a power of 80 % needs some 1,100 test images",
    ]


def test_table_that_was_printed_before_has_one_row() -> None:
    whole, brief = table(Params(), None, 359), table(Params(), None, 359, brief=True)
    assert brief == [*whole[:3], "              5  1.01                    50 %  <- retrain.seeds", whole[-1]]


def test_measured_figures_have_their_ranges_and_the_number_asked_for_a_row() -> None:
    lines = table(given(retrain__seeds=7), MEASURED, 359)
    assert lines[1] == (
        "          by 5 configurations with 2 further seeds each, on 287 validation images of the search"
    )
    (row,) = [line for line in lines if "<- retrain.seeds" in line]
    forecast = make_forecast(given(), MEASURED, 359)
    half, power = forecast.expected_half_width(7), forecast.power(7, 0.01)
    assert half.low is not None
    assert half.high is not None
    assert power.low is not None
    assert power.high is not None
    assert row == (
        f"              7  {100 * half.value:.2f} ({100 * half.low:.2f} to {100 * half.high:.2f})     "
        f"{100 * power.value:.0f} % ({100 * power.low:.0f} to {100 * power.high:.0f} %)  <- retrain.seeds"
    )
    assert [line.split()[0] for line in lines[3:10]] == ["2", "3", "5", "7", "8", "10", "20"]


def test_one_seed_and_one_image_have_no_interval() -> None:
    lines = table(given(retrain__seeds=1), MEASURED, 359)
    assert lines[3] == "              1  no interval             none  <- retrain.seeds"
    lines = table(given(), MEASURED, 1, masks=True)
    assert lines[0].endswith("on 1 test image;")
    assert all("no interval" in line for line in lines[3:9])
    assert lines[9:] == ["          one test image gives no interval; there must be at least two"]


def test_floor_says_what_would_lower_it() -> None:
    few = replace(MEASURED, config_image=0.02)
    assert floor(given(), few, 359) == (
        "with 359 test images, the half-width is at least 2.08 points with any number of seeds; a power of 80 % needs "
        "some 3,200 test images or more, however many seeds (split.test_fraction, or more images)"
    )
    wild = replace(MEASURED, config_seed=4e-3)
    assert floor(given(), wild, 10_000).endswith("; with 5 seeds, no number of test images gives a power of 80 %")
    assert floor(given(evaluate__margin=0.05), MEASURED, 10_000).endswith(
        "with any number of seeds, which is within the margin"
    )


@pytest.mark.parametrize("images", [17, 60])
def test_floor_of_few_images_is_near_the_last_row_and_says_why(images: int) -> None:
    """What endlessly many seeds would leave is far below any number of seeds that anybody takes."""
    said = floor(given(), None, images)
    last = float(table(given(), None, images)[8].split()[1])
    least = float(said.split("at least ")[1].split()[0])
    assert 0.9 * last < least < last
    assert "with up to 20 seeds, since so few images tell the arms apart that half an image is added" in said


def test_no_floor_is_told_where_images_differ_by_the_seed_alone() -> None:
    """Measured so on digits: the estimate of the variance from image to image was 0."""
    measured = replace(MEASURED, residual=0.0073, config_image=0.0, config_seed=2.3e-5, recurrence=0.16)
    said = floor(given(), measured, 359)
    assert said.startswith(
        "with 359 test images, no limit to the half-width was measured but that of the seeds; with 5 seeds, a power of "
        "80 % needs some "
    )
    assert floor(given(evaluate__margin=0.05), measured, 359).endswith("but that of the seeds")


def test_no_seed_makes_the_expected_interval_jump() -> None:
    """However many images are expected to tell the arms apart: from the rows of seven images up to those of many."""
    for images in (7, 17, 60, 100, 150, 359):
        halves = [make_forecast(given(), None, images).half_width(seeds) for seeds in range(5, 60)]
        assert all(0.8 * before < after < before for before, after in itertools.pairwise(halves))


def test_masks_add_what_the_half_of_alpha_leaves() -> None:
    params = given()
    strict = make_forecast(given(evaluate__confidence=0.975), MEASURED, 359).power(5, 0.01)
    last = below_the_table(table(params, MEASURED, 359, masks=True))
    assert "where attention is not shown to be better, accuracy is decided at 97.5 %: with 5 seeds" in last
    assert f" with 5 seeds {100 * strict.value:.0f} % (" in last


@pytest.mark.parametrize(
    ("settings", "images", "said"),
    [
        (
            {"evaluate__margin": 0.03},
            359,
            "4 seeds each, the fewest with which, if there is no loss, four of five evaluations rule out",
        ),
        ({"evaluate__margin": 0.001}, 359, "a further one would narrow the interval by under 5 %; power"),
        ({"retrain__max_seeds": 3}, 359, "3 seeds each, as many as retrain.max_seeds allows; power"),
        ({"search__budget__hours": 0.9}, 359, "4 seeds each, as many as search.budget has left; power"),
        ({"search__budget__hours": 0.5}, 359, "2 seeds each, search.budget has nothing left for more, and with fewer"),
        ({}, 1, "2 seeds each, the fewest that give an interval, which one test image does not give with any number"),
    ],
)
def test_auto_says_why_it_takes_no_more_seeds(settings: dict[str, Any], images: int, said: str) -> None:
    params = given(retrain__seeds="auto", **{"evaluate__margin": 0.003, **settings})
    cost = run_cost(params, SUMMARY)
    plan, why = plan_seeds(params, make_forecast(params, MEASURED, images), chosen_metric(params).words, cost)
    assert said in why
    assert why.startswith(f"{plan.seeds} seeds each, ")
    lines = describe_power(
        params, make_forecast(params, MEASURED, images), chosen_metric(params).words, masks=False, cost=cost
    )
    assert below_the_table(lines).endswith(f" retrain.seeds: auto, by the current forecast: {why}")


def test_runs_cost_what_the_search_took_for_an_epoch_on_more_images() -> None:
    params = given(train__epochs=8, split__val_fraction=0.2)
    # 36 seconds an epoch of a trial; retraining has the validation images too.
    found = run_cost(params, SUMMARY)
    assert found is not None
    assert found.seconds == pytest.approx(36 * 8 / 0.8)
    assert (found.together, found.gpus, found.spent_s, found.spent_gpu_s) == (2, 0.0, 1800.0, 900.0)
    one = run_cost(given(retrain__max_concurrent_runs=1), SUMMARY)
    assert one is not None
    assert one.together == 1
    assert run_cost(params, filled(SearchSummary, **CONTENT | {"epochs": {"spent": 0}})) is None
    assert run_cost(params, filled(SearchSummary, **{name: CONTENT[name] for name in ("epochs", "spent")})) is None


@pytest.mark.parametrize(
    ("budget", "cost", "seeds"),
    [
        ({}, RunCost(100.0, 2, 1.0, 0.0, 0.0), None),
        # 1,800 of 3,600 seconds are left: 18 rounds of two runs.
        ({"hours": 1.0}, RunCost(100.0, 2, 0.0, 1800.0, 0.0), 18),
        ({"hours": 1.0}, RunCost(100.0, 3, 0.0, 1800.0, 0.0), 27),
        ({"hours": 1.0}, RunCost(1000.0, 1, 0.0, 1800.0, 0.0), 0),
        ({"hours": 1.0}, RunCost(100.0, 2, 0.0, 7200.0, 0.0), 0),
        ({"hours": 1.0}, RunCost(0.0, 2, 0.0, 0.0, 0.0), None),
        ({"gpu_hours": 1.0}, RunCost(100.0, 2, 0.5, 0.0, 600.0), 30),
        ({"gpu_hours": 1.0}, RunCost(100.0, 2, 0.0, 0.0, 0.0), None),
        ({"cost": 2.0, "price_per_gpu_hour": 4.0}, RunCost(100.0, 2, 1.0, 0.0, 0.0), 9),
        ({"hours": 1.0, "gpu_hours": 1.0}, RunCost(100.0, 2, 0.5, 1800.0, 600.0), 18),
    ],
)
def test_seeds_within_the_budget_are_what_the_search_has_left(
    budget: dict[str, float], cost: RunCost, seeds: int | None
) -> None:
    params = given(**{f"search__budget__{name}": value for name, value in budget.items()})
    assert affordable_seeds(params, cost) == seeds


def test_expectation_is_a_sentence() -> None:
    said = describe_expectation(given(), make_forecast(given(), MEASURED, 359), 5, ACCURACY_WORDS)
    assert said.startswith("Forecast before the test, with 5 seeds: an interval of \N{PLUS-MINUS SIGN} ")
    assert said.endswith("(by 5 configurations with 2 further seeds each, on 287 validation images of the search).")
    none = describe_expectation(given(), make_forecast(given(), MEASURED, 359), 1, ACCURACY_WORDS)
    assert none == "Forecast before the test: no interval."
