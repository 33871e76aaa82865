"""Fonts for the names that users give, in whatever script: taken where one is installed, else numbers in their place.

A name is drawn as it is written: what stands between two `$` is no formula. matplotlib draws an empty box for a sign
that its font lacks. Scripts whose letters join, change places or run from the right (Arabic, Hebrew, Devanagari, Thai,
...) need shaping besides, which matplotlib has from 3.11 on.
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
BOXES = ("last resort", "emoji", "color", "adobe blank")
"""In names of fonts that have a box for every sign, or colours that are not drawn."""
REGULAR = 400
RIGHT_TO_LEFT = ("R", "AL")
OWN_FORMULA = r"\mathdefault"
JOINED = range(0x0900, 0x1100)
"""Devanagari to Myanmar: signs change places and join. Thai's and Lao's marks stand above and below."""


@dataclass(frozen=True)
class Labels:
    """What stands in a figure for some names. texts: the names, or their numbers from 1 on, where one of them cannot be
    drawn. families: fonts to draw them with, the first that has a sign giving it.
    """

    texts: tuple[str, ...]
    families: tuple[str, ...]
    numbered: bool = False


def display_labels(names: Sequence[str]) -> Labels:
    """How these names are drawn: all of them as they are, or all by number."""
    families = families_for("".join(names))
    if families is None:
        return Labels(tuple(str(number) for number in range(1, len(names) + 1)), _usual(), numbered=True)
    return Labels(tuple(names), families)


def families_for(text: str) -> tuple[str, ...] | None:
    """Fonts that have all signs of a text between them, the usual ones first; None: there are none, or no shaping."""
    needed = {sign for sign in text if not sign.isspace() and unicodedata.category(sign) not in ("Cf", "Cc")}
    if not SHAPES and any(_needs_shaping(sign) for sign in needed):
        return None
    families = list(_usual())
    missing = {sign for sign in needed if ord(sign) not in _signs(findfont(FontProperties()))}
    installed = _installed() if missing else {}
    # Of fonts that give as many signs, always the same one.
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
    """Give each text of a figure fonts that have its signs; signs that none has are written as their codes.

    A `$` is a sign like others, but in the numbers that matplotlib writes at a logarithmic axis.
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
    """Upright fonts by name, each with the file of the weight that is nearest to the regular one."""
    upright = [entry for entry in fontManager.ttflist if entry.style == "normal"]
    upright = [entry for entry in upright if not any(word in entry.name.lower() for word in BOXES)]
    by_weight = sorted(upright, key=lambda entry: -abs(_weight(entry.weight) - REGULAR))
    return {entry.name: entry.fname for entry in by_weight}


@cache
def _signs(path: str) -> frozenset[int]:
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (RuntimeError, OSError, ValueError):  # a font that is damaged, or of a kind that is not drawn
        return frozenset()
