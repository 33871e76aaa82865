"""Claims about the Pareto figure: the marks tell the front from what is dominated, broken, a control or chosen."""

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.figures.pareto import pareto_figure

TWO = {"val/accuracy": "maximize", "latency_ms": "minimize"}


def setting(name: str, accuracy: float, latency: float, **about: bool) -> dict[str, Any]:
    kinds = {"control": False, "front": False, "chosen": False, "keeps": True}
    return {"trial": name, "val/accuracy": accuracy, "latency_ms": latency, "parameters": 2e6, **kinds, **about}


SETTINGS = [
    setting("t0000", 0.9, 4.0, front=True, chosen=True),
    setting("t0001", 0.8, 2.0, front=True),
    setting("t0002", 0.7, 3.0),
    setting("t0003", 0.95, 9.0, keeps=False),
    setting("t0004", math.nan, 9.0),
    setting("baseline", 0.6, 2.5, control=True),
]


def marks(figure: Figure | None, place: int = 0) -> dict[str, Any]:
    assert figure is not None
    figure.canvas.draw()
    return {str(part.get_label()): np.asarray(part.get_offsets()).tolist() for part in figure.axes[place].collections}


def test_front_is_joined_and_told_from_everything_else() -> None:
    figure = pareto_figure(SETTINGS, TWO)
    assert marks(figure) == {
        "dominated": [[3.0, pytest.approx(70)]],
        "breaks a constraint": [[9.0, pytest.approx(95)]],
        "Pareto front": [[2.0, pytest.approx(80)], [4.0, pytest.approx(90)]],
        "control": [[2.5, pytest.approx(60)]],
        "chosen": [[4.0, pytest.approx(90)]],
    }
    assert figure is not None
    (axes,) = figure.axes
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata(), dtype=float), [2.0, 4.0])
    assert axes.lines[0].get_drawstyle() == "steps-post"  # between two latencies the accuracy is that of the lower one
    assert [text.get_text() for text in axes.texts] == ["baseline"]
    assert axes.get_xlabel() == "latency of one image (ms)  ← better"
    assert axes.get_ylabel() == "validation accuracy (%)  ↑ better"


def test_three_objectives_are_two_panels_against_the_first_without_a_line() -> None:
    figure = pareto_figure(SETTINGS, {**TWO, "parameters": "minimize"})
    assert figure is not None
    assert len(figure.axes) == 2
    assert not figure.axes[0].lines
    assert marks(figure, 1)["chosen"] == [[pytest.approx(2.0), pytest.approx(90)]]
    assert figure.axes[1].get_xlabel() == "parameters (millions)  ← better"


def test_nothing_is_drawn_of_one_objective_or_without_a_front() -> None:
    assert pareto_figure(SETTINGS, {"val/accuracy": "maximize"}) is None
    assert pareto_figure(SETTINGS[2:], TWO) is None
