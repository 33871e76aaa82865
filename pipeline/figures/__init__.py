"""Figures by matplotlib, and the HTML reports that contain them: attention, curves, Pareto front, importances.

Every figure is built by a function that returns a matplotlib `Figure` and touches no global state. So it can
be drawn in any process or thread. The caller saves it, shows it or passes it to `report`.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (Color Universal Design, 2008) is distinguishable with any colour vision. Its yellow is
# left out because it is invisible on white.
BLACK: Final = "#000000"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
GREY: Final = "#8A8A8A"

WIDTH: Final = 7.5
"""Width of a figure in inches: 900 pixels at 120 dots an inch, the width of the report's figures."""

# Series take colours in this order. Neighbours also differ in lightness, so they are distinguishable in greyscale.
SERIES: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Returns the last part of each dotted path; the whole path where two paths share that part.

    Args:
        paths: dotted paths of parameters.

    Returns:
        The short name of each path, by the path.
    """
    given = list(dict.fromkeys(paths))
    last = [path.rpartition(".")[2] for path in given]
    return {path: name if last.count(name) == 1 else path for path, name in zip(given, last, strict=True)}


def new_figure(height: float, title: str, *, width: float = WIDTH) -> "Figure":
    """Returns an empty figure.

    Args:
        height: inches.
        title: heading of the figure; empty for none.
        width: inches.
    """
    from matplotlib.figure import Figure  # imported here, since the colours are needed without matplotlib too

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def open_axes(axes: "Axes", *, size: float) -> None:
    """Draws a pale grid behind the marks of the axes, and no lines above and at the right.

    Args:
        axes: the axes.
        size: size of the numbers at the ticks.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=size)
