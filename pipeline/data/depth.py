"""How many bits the pictures of a set have: one answer for all of them, so that none is shown brighter than another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from pipeline.data.pictures import Depth, deep_values
from pipeline.errors import UserError

NAMED = 3
USUAL = (1, 8, 10, 12, 14, 16, 20, 24, 32)
"""Bits that cameras and scanners give."""


class Measured(NamedTuple):
    """The depth of one picture of more than 8 bits a channel, and the highest of its values."""

    bits: int
    told: bool
    highest: int


def measured(image: Image.Image, depth: Depth) -> Measured:
    """What is to be known of a loaded picture for the whole set's sake."""
    if depth.is_grey:
        return Measured(depth.bits, depth.told, int(deep_values(image).max()))
    upper = max(int(high) for _, high in _bands(image))
    return Measured(depth.bits, depth.told, upper << 8 | 255)


def _bands(image: Image.Image) -> list[tuple[float, float]]:
    colours = image.convert("RGB") if image.mode != "RGB" else image
    return [band.getextrema() for band in colours.split()]  # type: ignore[misc]


def described(depth: Depth) -> str:
    """The remark about a picture of that depth."""
    if depth.is_grey:
        return f"made RGB from grey of {depth.bits} bits, 0 to {depth.white:,}"
    return "the upper 8 of 16 bits taken of each channel"


@dataclass
class Depths:
    """The depths found in a set, by bits: how many files, their highest value, whether it was told, the first names."""

    found: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, pictures: Iterable[tuple[Measured, str]]) -> None:
        for (bits, told, highest), name in pictures:
            entry = self.found.setdefault(bits, {"files": 0, "highest": 0, "told": False, "first": []})
            entry["files"] += 1
            entry["highest"] = max(entry["highest"], highest)
            entry["told"] |= told
            if len(entry["first"]) < NAMED:
                entry["first"].append(name)

    def entries(self) -> dict[str, Any]:
        """As the record of a half-made set has them."""
        return {str(bits): entry for bits, entry in self.found.items()}

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> "Depths":
        """From such entries again."""
        return cls({int(bits): dict(entry) for bits, entry in entries.items()})

    def settled(self, given: int | None) -> int | None:
        """The one depth of the set's pictures of more than 8 bits; None where it has none. given: prepare.bit_depth.

        Raises:
            UserError: there are several, or nothing says what the values mean and none is in the upper half.
        """
        if given is not None or not self.found:
            return given
        if len(self.found) > 1:
            told = ", ".join(
                f"{entry['files']:,} of {bits} bits ({', '.join(entry['first'])})"
                for bits, entry in sorted(self.found.items())
            )
            raise UserError(
                f"pictures of different depths: {told}. A value would mean one brightness in some of them and another "
                "in others. Set prepare.bit_depth in params.yaml to the bits that all of them have, or save them alike."
            )
        ((bits, entry),) = self.found.items()
        if not entry["told"] and entry["highest"] < 2 ** (bits - 1):
            likely = next(usual for usual in USUAL if entry["highest"] < 2**usual)
            raise UserError(
                f"{entry['files']:,} pictures of {bits} bits ({', '.join(entry['first'])}): none has a value above "
                f"{entry['highest']:,} of {2**bits - 1:,}, so that they would come out dark, or black. If their values "
                f"are of fewer bits, set prepare.bit_depth in params.yaml ({likely} bits hold them); if they are as "
                f"dark as that, to {bits}."
            )
        return bits
