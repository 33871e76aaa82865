"""Claims about the figures of a search: colour and marks tell completed trials from those stopped early."""

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from pipeline.figures.search import importance_figure, parallel_figure, slice_figure, survival_figure


def trial(state: str, accuracy: float | None, epochs: int, weight: float, layers: str = "last") -> dict[str, Any]:
    parameters = {"weight": weight, "layers": layers, "fixed": 3.0}
    return {"state": state, "value": accuracy, "epochs": epochs, "parameters": parameters}


TRIALS = [
    trial("complete", 0.9, 8, 0.001),
    trial("complete", 0.8, 8, 1.0, "all"),
    trial("pruned", 0.95, 2, 0.01),
    trial("pruned", 0.1, 4, 0.1),
    trial("failed", None, 1, 0.5),
]


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    figure.canvas.draw()
    return figure


def test_values_that_hardly_differ_span_a_part_of_the_scale_of_colours_alone() -> None:
    trials = [{"state": "complete", "value": 0.9 + n / 100, "epochs": 8, "parameters": {"weight": n}} for n in range(3)]
    plain, wide = (parallel_figure(trials, least_span=span) for span in (0.01, 0.08))
    for figure, ends in ((plain, [0, 0.5, 1]), (wide, [0.375, 0.5, 0.625])):
        lines = [np.asarray(line.get_ydata(), dtype=float) for line in drawn(figure).axes[0].lines[:3]]
        np.testing.assert_allclose([line[-1] for line in lines], ends, atol=1e-9)
    assert wide is not None
    np.testing.assert_allclose(wide.axes[1].get_ylim(), [87, 95])
    assert wide.axes[0].lines[2].get_linewidth() == 3.0


def test_parallel_coordinates_end_at_the_accuracy_of_completed_trials_alone() -> None:
    axes = drawn(parallel_figure(TRIALS, logarithmic=["weight"])).axes[0]
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines if len(np.asarray(line.get_ydata())) > 2 or line.get_linestyle() == "--"]  # fmt: skip
    assert [label.get_text() for label in axes.get_xticklabels()] == ["weight", "layers", "validation\naccuracy"]
    ends = [values for values in lines if len(values) == 3]
    assert len(ends) == 2
    # weight on a logarithmic axis, words in order, the best at the top
    np.testing.assert_allclose(ends[0], [0.0, 1.0, 1.0])
    np.testing.assert_allclose(ends[1], [1.0, 0.0, 0.0])
    grey = [line for line in axes.lines if line.get_linewidth() == pytest.approx(0.7)]
    np.testing.assert_allclose([np.asarray(line.get_ydata(), dtype=float)[0] for line in grey], [1 / 3, 2 / 3, 0.8997], atol=1e-4)  # fmt: skip
    best, worst = (line for line in axes.lines if len(np.asarray(line.get_ydata())) == 3)
    assert best.get_linewidth() > worst.get_linewidth()
    assert best.get_color() != worst.get_color()


def test_slices_tell_completed_trials_from_those_stopped_early() -> None:
    weight, layers = drawn(slice_figure(TRIALS, logarithmic=["weight"])).axes
    assert (weight.get_xlabel(), layers.get_xlabel()) == ("weight", "layers")
    assert weight.get_xscale() == "log"
    stopped, complete = (part for part in weight.collections if isinstance(part, PathCollection))
    np.testing.assert_allclose(np.asarray(complete.get_offsets()), [[0.001, 90], [1.0, 80]])
    np.testing.assert_allclose(np.asarray(stopped.get_offsets()), [[0.01, 95], [0.1, 10]])
    assert len(stopped.get_facecolor()) == 0  # type: ignore[arg-type]
    assert len(complete.get_facecolor()) == 1  # type: ignore[arg-type]
    assert [label.get_text() for label in layers.get_xticklabels()] == ["all", "last"]


def test_importances_are_bars_with_the_largest_on_top() -> None:
    axes = drawn(importance_figure({"weight": 0.25, "layers": 0.75})).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [25, 75]  # type: ignore[attr-defined]
    assert axes.get_yticklabels()[-1].get_text() == "layers"


def test_survival_falls_where_trials_were_stopped_and_leaves_out_failed_ones() -> None:
    axes = drawn(survival_figure(TRIALS)).axes[0]
    line = axes.lines[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), range(9))
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [4, 4, 4, 3, 3, 2, 2, 2, 2])
    assert [text.get_text() for text in axes.texts] == [
        "1 stopped early\nafter epoch 2",
        "1 stopped early\nafter epoch 4",
    ]


def test_where_there_is_nothing_to_draw_there_is_no_figure() -> None:
    stopped = TRIALS[2:]
    assert parallel_figure(stopped) is slice_figure(stopped) is importance_figure({}) is None
    assert survival_figure(TRIALS[:2]) is None
    assert parallel_figure(TRIALS[:1]) is None  # nothing differs


def test_equal_accuracies_and_a_parameter_that_some_trials_lack_are_drawn() -> None:
    lacking = trial("complete", 0.9, 8, 0.5)
    del lacking["parameters"]["layers"]
    trials = [TRIALS[0], trial("complete", 0.9, 8, 0.7, "all"), lacking]
    drawn(parallel_figure(trials))
    drawn(slice_figure(trials))


def test_what_is_not_searched_on_a_logarithmic_scale_is_not_drawn_on_one() -> None:
    trials = [trial("complete", 0.8 + value / 10, 8, value) for value in np.linspace(0.01, 0.5, 20)]
    weight = drawn(slice_figure(trials)).axes[0]
    assert weight.get_xscale() == "linear"
    axes = drawn(parallel_figure(trials)).axes[0]
    starts = [np.asarray(line.get_ydata(), dtype=float)[0] for line in axes.lines[:20]]
    np.testing.assert_allclose(starts, np.linspace(0, 1, 20))
