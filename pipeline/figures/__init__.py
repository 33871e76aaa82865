"""Figures, by matplotlib, and the HTML report that gathers them: attention, learning curves, Pareto front, importances.

Every figure is built by a function that returns a matplotlib `Figure` and touches no global state, so that it may be
drawn in any process or thread; the caller saves it, shows it or hands it to `report`.
"""

from collections.abc import Iterable
from typing import Final

# The palette of Okabe and Ito (Color Universal Design, 2008), told apart by readers of any colour vision. Its yellow is
# left out because it vanishes on white.
BLACK: Final = "#000000"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
GREY: Final = "#8A8A8A"

# The order in which series take colours: neighbours differ in lightness too, so that they part in greyscale.
SERIES: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The last part of every dotted path, by the path; the whole of it where another ends alike."""
    given = list(dict.fromkeys(paths))
    last = [path.rpartition(".")[2] for path in given]
    return {path: name if last.count(name) == 1 else path for path, name in zip(given, last, strict=True)}
