"""Claims about the figures of numbers: means, bands, marks and intervals are those of the data."""

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from pipeline.figures import SERIES
from pipeline.figures.curves import (
    confusion_figure,
    difference_figure,
    learning_curves,
    objective_by_trial,
    reliability_figure,
)
from pipeline.score.metrics.metric import LOG_LOSS


def only_axes(figure: Figure) -> Axes:
    figure.canvas.draw()
    return figure.axes[0]


def labels(axes: Axes) -> list[str]:
    return [str(label) for label in axes.get_legend_handles_labels()[1]]


def test_learning_curves_draw_mean_and_range_over_seeds() -> None:
    values = np.array([[0.5, 0.7, 0.9], [0.6, 0.9, np.nan]])
    axes = only_axes(learning_curves({"best": ([1, 2, 3], values), "control": ([1, 2, 3], [0.4, 0.5, 0.6])}))
    assert labels(axes) == ["best (2 seeds)", "control"]
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), [55, 80, 90])
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_ydata()), [40, 50, 60])
    assert len(axes.collections) == 1
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx((50, 90))
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()


def test_learning_curves_leave_out_epochs_that_no_seed_reached() -> None:
    axes = only_axes(learning_curves({"loss": ([1, 2, 3], [2.0, 1.0, np.nan])}, scale=1.0, ylabel="loss"))
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata()), [1, 2])
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), [2, 1])


def test_learning_curves_refuse_epochs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="series 'best'"):
        learning_curves({"best": ([1, 2], [[0.1, 0.2, 0.3]])})


def test_trials_are_marked_by_state_and_the_line_follows_completed_ones() -> None:
    trials: list[dict[str, Any]] = [
        {"state": "complete", "value": 0.99, "control": True},
        {"state": "complete", "value": 0.90},
        {"state": "pruned", "value": 0.95},
        {"state": "failed", "value": None},
        {"state": "complete", "value": 0.93},
        {"state": "complete", "value": 0.91},
        {"state": "failed", "value": float("nan")},
    ]
    axes = only_axes(objective_by_trial(trials))
    line = axes.lines[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [2, 3, 4, 5, 6, 7])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [90, 90, 90, 93, 93, 93])
    assert labels(axes) == ["best so far", "in full (3)", "stopped early (1)", "failed (2)", "control (1)"]
    marks = {str(drawn.get_label()).split()[0]: drawn for drawn in axes.collections}
    places = {state: np.asarray(drawn.get_offsets())[:, 0].tolist() for state, drawn in marks.items()}
    assert places == {"in": [2, 5, 6], "stopped": [3], "failed": [4, 7], "control": [1]}
    assert len({tuple(np.ravel(drawn.get_edgecolor())[:3]) for drawn in marks.values()}) == 4
    shapes = {np.asarray(drawn.get_paths()[0].vertices).tobytes() for drawn in marks.values()}
    assert len(shapes) == 4


def test_a_search_without_trials_is_an_empty_figure() -> None:
    assert len(only_axes(objective_by_trial([])).collections) == 0


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown trial states: running"):
        objective_by_trial([{"state": "running", "value": 0.5}])


def test_confusion_is_coloured_by_row_and_numbered() -> None:
    axes = only_axes(confusion_figure([[8, 2, 0], [1, 1, 0], [0, 0, 0]], ["cat", "dog", "emu"]))
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), [[80, 20, 0], [50, 50, 0], [0, 0, 0]])
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "2", "8"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "emu"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_confusion_of_many_classes_names_some_of_them() -> None:
    axes = only_axes(confusion_figure(np.eye(100, dtype=int), [f"class {index}" for index in range(100)]))
    assert not axes.texts
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["class 0", "class 3"]


def test_confusion_refuses_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 classes"):
        confusion_figure(np.eye(3), ["a", "b"])


def test_reliability_skips_empty_bins_and_weighs_marks_by_images() -> None:
    bins = {"best": ([np.nan, 0.5, 0.9], [np.nan, 0.4, 0.95], [0, 10, 90])}
    axes = only_axes(reliability_figure(bins))
    drawn = axes.collections[0]
    assert isinstance(drawn, PathCollection)
    np.testing.assert_allclose(np.asarray(drawn.get_offsets()), [[50, 40], [90, 95]])
    assert drawn.get_sizes()[1] > drawn.get_sizes()[0]
    assert labels(axes) == ["perfect", "best"]


def test_differences_are_drawn_in_points_with_their_intervals() -> None:
    rows = [("SAR", 0.012, 0.003, 0.021), ("paper", -0.004, None, None)]
    axes = only_axes(difference_figure(rows, margin=0.01))
    drawn = [np.asarray(line.get_xdata()).tolist() for line in axes.lines]
    assert drawn[1:] == [pytest.approx([0.3, 2.1]), pytest.approx([1.2]), pytest.approx([-0.4])]
    assert axes.lines[3].get_markerfacecolor() == "white"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SAR", "paper"]
    assert labels(axes) == ["within 1.0 points"]
    levelled = difference_figure([rows[1], rows[0], rows[0]], margin=0.01, confidence=0.975)
    assert labels(only_axes(levelled)) == ["within 1.0 points", "97.5 % interval"]
    shade = axes.patches[0].get_window_extent().transformed(axes.transData.inverted())
    assert (shade.x0, shade.x1) == pytest.approx((-1, 1))


def test_palette_has_no_colour_twice() -> None:
    assert len(set(SERIES)) == len(SERIES) == 7


def test_differences_of_a_plain_number_are_drawn_as_they_are() -> None:
    axes = only_axes(difference_figure([("best", -0.05, -0.08, -0.02)], margin=0.02, words=LOG_LOSS.words))
    assert axes.get_xlabel() == "difference to the control (test log loss)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["within 0.02"]
    assert list(axes.lines[-2].get_xdata()) == [-0.08, -0.02]
