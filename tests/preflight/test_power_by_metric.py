"""Claims about the forecast of seeds where a search is for another metric than accuracy, and where it is not."""

from typing import Any

import numpy as np
import pytest
from support.scored_images import ByImages

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.preflight.power import (
    UNFORETOLD_SEEDS,
    check_seeds,
    describe_expectation,
    describe_power,
    make_forecast,
    plan_seeds,
)
from pipeline.score.metrics.chosen_metric import chosen_metric
from pipeline.score.metrics.metric import LOG_LOSS, MACRO_F1
from pipeline.tune.objectives.objectives import LOSS
from pipeline.tune.selection.confirmed_tables import forecast_content
from pipeline.tune.task import Resources

F1 = "val/macro_f1"
RESOURCES = Resources(1, 0.0, 2, 2, 0.0)


def params(**settings: Any) -> Params:
    return Params().with_values({name.replace("__", "."): value for name, value in settings.items()}, where="test")


def test_power_is_foretold_of_the_metric_that_is_searched_for() -> None:
    made = ByImages(configs=5, seeds=2)
    asked = params(search__objectives=[F1], evaluate__metric="macro_f1", retrain__seeds="auto")
    check_seeds(asked)
    content = forecast_content(made.records, made.scores, RESOURCES, asked)
    assert content.assumed is None
    assert content.binary is False
    # var_cs on the pseudo-values of the further seeds, restated.
    means = np.array([[np.float32(row).mean() for row in rows[1:]] for rows in made.tables.values()], dtype=np.float64)
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    assert content.config_seed == pytest.approx((rest**2).sum() / 4, rel=1e-4)
    forecast = make_forecast(asked, content, 300)
    lines = describe_power(asked, forecast, chosen_metric(asked).words, masks=False)
    assert "that macro-F1 loses no more than 2 points, where it loses none, on 300 test images" in lines[0]
    plan, why = plan_seeds(asked, forecast, MACRO_F1.words)
    assert plan.seeds >= 2
    assert str(plan.seeds) in why
    assert "to show no loss of more than 2 points where there is none" in describe_expectation(
        asked, forecast, 5, chosen_metric(asked).words
    )


def test_power_of_log_loss_is_in_nats() -> None:
    made = ByImages(configs=5, seeds=2, metric=LOG_LOSS)
    asked = params(search__objectives=[LOSS], evaluate__metric="log_loss")
    forecast = make_forecast(asked, forecast_content(made.records, made.scores, RESOURCES, asked), 300)
    lines = describe_power(asked, forecast, chosen_metric(asked).words, masks=False)
    assert "that log loss rises by no more than 0.02, where it rises by none" in lines[0]
    assert "half-width  " in lines[2]
    assert "points" not in "".join(lines)
    assert "to show no rise of more than 0.02 where there is none" in describe_expectation(
        asked, forecast, 5, chosen_metric(asked).words
    )


@pytest.mark.parametrize(
    ("settings", "assumed"),
    [
        ({"search__objectives": [F1]}, "the search was for val/macro_f1, and evaluate.metric is accuracy"),
        ({"evaluate__metric": "macro_f1"}, "the search was for val/accuracy, and evaluate.metric is macro_f1"),
    ],
)
def test_a_search_for_another_metric_foretells_nothing(settings: dict[str, Any], assumed: str) -> None:
    made, asked = ByImages(configs=5, seeds=2), params(**settings)
    content = forecast_content(made.records, made.scores, RESOURCES, asked)
    assert content.assumed == assumed
    with pytest.raises(UserError, match=r"retrain\.seeds: auto derives .* Put val/\w+ first in search\.objectives"):
        check_seeds(params(**settings, retrain__seeds="auto"))
    said = describe_power(asked, make_forecast(asked, content, 300), chosen_metric(asked).words, masks=False)
    if asked.evaluate.metric == "accuracy":
        assert f"assumed, since {assumed}" in said[1]
    else:
        assert said == [
            f"power     no forecast for macro-F1, since {assumed}; a search for val/macro_f1 (search.objectives) "
            "gives one"
        ]


def test_before_anything_is_confirmed_auto_takes_the_default_number() -> None:
    asked = params(search__objectives=[F1], evaluate__metric="macro_f1", retrain__seeds="auto")
    plan, why = plan_seeds(asked, make_forecast(asked, None, 300), MACRO_F1.words)
    assert plan.seeds == UNFORETOLD_SEEDS == Params().retrain.seeds
    assert why == "5 seeds each; there is no forecast for macro-F1, since no configuration has been confirmed yet"
    few = params(search__objectives=[F1], evaluate__metric="macro_f1", retrain__seeds="auto", retrain__max_seeds=3)
    assert plan_seeds(few, make_forecast(few, None, 300), MACRO_F1.words)[0].seeds == 3
