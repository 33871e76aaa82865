"""Fonts for the names that users give, in any script; numbers replace names for which no font is installed.

A name is drawn as it is written: text between two `$` is not treated as a formula. matplotlib draws an empty
box for a character that its font lacks. Scripts whose letters join, change places or run from the right
(Arabic, Hebrew, Devanagari, Thai, ...) also need shaping, which matplotlib supports from 3.11 on.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from matplotlib import ft2font
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, weight_dict
from matplotlib.text import Text

SHAPES = hasattr(ft2font, "__libraqm_version__")
"""Whether this matplotlib supports shaping."""
BOXES = ("last resort", "emoji", "color", "adobe blank")
"""Parts of names of fonts that have a box for every character, or colours that matplotlib does not draw."""
REGULAR = 400
RIGHT_TO_LEFT = ("R", "AL")
OWN_FORMULA = r"\mathdefault"
"""Text in the formulas that matplotlib itself writes at logarithmic axes."""
JOINED = range(0x0900, 0x1100)
"""Devanagari to Myanmar, whose characters change places and join.

Marks of Thai and Lao only stand above and below.
"""


@dataclass(frozen=True)
class Labels:
    """Labels of some names in a figure.

    Attributes:
        texts: the names, or their numbers from 1 on if one of the names cannot be drawn.
        families: fonts to draw them with. The first font that has a character draws it.
        numbered: whether the texts are numbers.
    """

    texts: tuple[str, ...]
    families: tuple[str, ...]
    numbered: bool = False


def display_labels(names: Sequence[str]) -> Labels:
    """Returns labels with which a figure can show names, and the fonts for them.

    The labels are the names. If any of the names cannot be drawn with the installed fonts, all labels are numbers,
    counted from 1.

    Args:
        names: the names.
    """
    families = families_for("".join(names))
    if families is None:
        return Labels(tuple(str(number) for number in range(1, len(names) + 1)), _usual(), numbered=True)
    return Labels(tuple(names), families)


def families_for(text: str) -> tuple[str, ...] | None:
    """Returns fonts that together have all characters of a text, the default ones first.

    The result is None if some characters are in no installed font, or if the text needs shaping that is not
    supported.
    """
    needed = {sign for sign in text if not sign.isspace() and unicodedata.category(sign) not in ("Cf", "Cc")}
    if not SHAPES and any(_needs_shaping(sign) for sign in needed):
        return None
    families = list(_usual())
    missing = {sign for sign in needed if ord(sign) not in _signs(findfont(FontProperties()))}
    installed = _installed() if missing else {}
    # Sorted, so that the choice among equally suitable fonts is always the same.
    ordered = sorted(installed, key=lambda name: (not name.startswith("Noto Sans"), name))
    while missing:
        gives = {name: {sign for sign in missing if ord(sign) in _signs(installed[name])} for name in ordered}
        best = max(ordered, key=lambda name: len(gives[name]), default=None)
        if best is None or not gives[best]:
            return None
        families.append(best)
        missing -= gives[best]
    return tuple(families)


def fit_fonts(figure: Figure) -> None:
    """Sets fonts that have all characters for each text of a figure. Other characters are replaced by their codes.

    A `$` is drawn as a character, except in the numbers that matplotlib writes at a logarithmic axis.

    Args:
        figure: the figure, which is changed.
    """
    for text in figure.findobj(Text):
        if not isinstance(text, Text):
            continue
        written = text.get_text()
        if "$" in written and OWN_FORMULA not in written:
            text.set_parse_math(False)
        if written.isascii():
            continue
        families = families_for(written)
        if families is None:
            text.set_text(written.encode("ascii", "backslashreplace").decode())
        elif families != _usual():
            text.set_fontfamily(families)


def _usual() -> tuple[str, ...]:
    return tuple(FontProperties().get_family())


def _needs_shaping(sign: str) -> bool:
    return unicodedata.bidirectional(sign) in RIGHT_TO_LEFT or ord(sign) in JOINED


def _weight(given: str | int) -> int:
    return weight_dict.get(given, REGULAR) if isinstance(given, str) else given


def _installed() -> dict[str, str]:
    """Returns the file of each upright font, by the font's name, in the weight nearest to the regular one."""
    upright = [entry for entry in fontManager.ttflist if entry.style == "normal"]
    upright = [entry for entry in upright if not any(word in entry.name.lower() for word in BOXES)]
    by_weight = sorted(upright, key=lambda entry: -abs(_weight(entry.weight) - REGULAR))
    return {entry.name: entry.fname for entry in by_weight}


@cache
def _signs(path: str) -> frozenset[int]:
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (RuntimeError, OSError, ValueError):  # a damaged font, or one of an unsupported format
        return frozenset()
