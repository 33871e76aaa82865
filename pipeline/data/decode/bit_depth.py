"""How many bits the pictures of a set have: one answer for all of them, so that none is shown brighter than another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from pipeline.data.decode.pictures import Depth, highest_of
from pipeline.errors import UserError

NAMED = 3
USUAL = (1, 8, 10, 12, 14, 16, 20, 24, 32)
"""Bits that cameras and scanners give."""


class BitDepth(NamedTuple):
    """The depth of one picture of more than 8 bits a channel, the highest of its values, and the format of its file."""

    bits: int
    declared: bool
    highest: int
    is_grey: bool = True
    format: str = ""


def measure_bit_depth(image: Image.Image, depth: Depth) -> BitDepth:
    """What is to be known of a loaded picture for the whole set's sake."""
    return BitDepth(depth.bits, depth.declared, highest_of(image, depth), depth.is_grey, image.format or "")


def describe_bit_depths(depth: Depth) -> str:
    """The remark about a picture of that depth."""
    if depth.is_grey:
        return f"made RGB from grey of {depth.bits} bits, 0 to {depth.white:,}"
    return "the upper 8 of 16 bits taken of each channel"


Kind = tuple[int, bool, bool, str]
"""Bits, whether they were declared, whether grey, and the format of the file."""


@dataclass
class BitDepths:
    """The depths found in a set, by kind: how many files, their highest value, the first names."""

    found: dict[Kind, dict[str, Any]] = field(default_factory=dict)

    def add(self, pictures: Iterable[tuple[BitDepth, str]]) -> None:
        for (bits, declared, highest, is_grey, kind), name in pictures:
            entry = self.found.setdefault((bits, declared, is_grey, kind), {"files": 0, "highest": 0, "first": []})
            entry["files"] += 1
            entry["highest"] = max(entry["highest"], highest)
            if len(entry["first"]) < NAMED:
                entry["first"].append(name)

    def entries(self) -> list[Any]:
        """As the record of a half-made set has them."""
        return [[list(kind), entry] for kind, entry in self.found.items()]

    @classmethod
    def of(cls, entries: Iterable[Any]) -> "BitDepths":
        """From such entries again."""
        return cls({(int(bits), bool(declared), bool(grey), str(kind)): dict(entry)
                    for (bits, declared, grey, kind), entry in entries})  # fmt: skip

    def resolve(self, given: int | None) -> int | None:
        """The one depth of the set's grey pictures of more than 8 bits; None where it has none.

        given: prepare.bit_depth, which is then taken.

        Raises:
            UserError: there are several, or nothing says what the values of some mean and none is in the upper half.
        """
        if given is not None or not self.found:
            return given
        for (bits, declared, is_grey, kind), entry in sorted(self.found.items()):
            # What other files tell, or reach to, says nothing about these.
            if not declared and entry["highest"] < 2 ** (bits - 1):
                raise UserError(_dark(bits, is_grey, kind, entry))
        if len({bits for bits, *_ in self.found}) > 1:
            some = ", ".join(
                f"{entry['files']:,} of {bits} bits ({', '.join(entry['first'])})"
                for (bits, *_), entry in sorted(self.found.items())
            )
            advice = "Set prepare.bit_depth in params.yaml to the bits that all of them have, or save them alike."
            if not all(is_grey for _, _, is_grey, _ in self.found):  # which are read as 16 bits and no others
                advice = "Save them alike, with 8 bits a channel."
            raise UserError(
                f"pictures of different depths: {some}. A value would mean one brightness in some of them and another "
                f"in others. {advice}"
            )
        greys = [bits for bits, _, is_grey, _ in self.found if is_grey]
        return greys[0] if greys else None


def _dark(bits: int, is_grey: bool, kind: str, entry: Mapping[str, Any]) -> str:
    what = f"{kind} pictures" if is_grey else f"{kind} pictures in colours"
    likely = next(usual for usual in USUAL if entry["highest"] < 2**usual)
    fewer = (
        f"If their values are of fewer bits, set prepare.bit_depth in params.yaml ({likely} bits hold them)"
        if is_grey
        else "If their values are of fewer bits, save them with 8 bits a channel"
    )
    own = f"set prepare.bit_depth in params.yaml to {bits}" if not is_grey else f"to {bits}"
    return (
        f"{entry['files']:,} {what.strip()} of {bits} bits ({', '.join(entry['first'])}): none has a value above "
        f"{entry['highest']:,} of {2**bits - 1:,}, so that they would come out dark, or black. {fewer}; if they are as "
        f"dark as that, {own}."
    )
