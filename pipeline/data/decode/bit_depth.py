"""Bit depth of a set's pictures: one answer for the whole set, so that equal values mean equal brightness."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from pipeline.data.decode.pictures import Depth, highest_of
from pipeline.errors import UserError

NAMED = 3
"""Files of each kind that a message names."""
USUAL = (1, 8, 10, 12, 14, 16, 20, 24, 32)
"""Bit depths of cameras and scanners."""


class BitDepth(NamedTuple):
    """Depth of one picture with more than 8 bits a channel.

    Attributes:
        bits: Bits a channel.
        declared: Whether the file or the user states the depth; otherwise it is the size of the stored
            values.
        highest: Highest value in the picture.
        is_grey: Whether the picture is grey rather than in colour.
        format: Pillow's name of the file format.
    """

    bits: int
    declared: bool
    highest: int
    is_grey: bool = True
    format: str = ""


def measure_bit_depth(image: Image.Image, depth: Depth) -> BitDepth:
    """Returns the depth of a loaded picture, with its highest value and its file format."""
    return BitDepth(depth.bits, depth.declared, highest_of(image, depth), depth.is_grey, image.format or "")


def describe_bit_depths(depth: Depth) -> str:
    """Returns the remark about a picture of this depth."""
    if depth.is_grey:
        return f"made RGB from grey of {depth.bits} bits, 0 to {depth.white:,}"
    return "the upper 8 of 16 bits taken of each channel"


Kind = tuple[int, bool, bool, str]
"""Bits, whether they are declared, whether the picture is grey, and the format of the file."""


@dataclass
class BitDepths:
    """The depths found in a set.

    Attributes:
        found: For each kind, the number of files ("files"), their highest value ("highest") and the first
            names ("first").
    """

    found: dict[Kind, dict[str, Any]] = field(default_factory=dict)

    def add(self, pictures: Iterable[tuple[BitDepth, str]]) -> None:
        """Counts pictures by their depth.

        Args:
            pictures: Depth and file name of each picture.
        """
        for (bits, declared, highest, is_grey, kind), name in pictures:
            entry = self.found.setdefault((bits, declared, is_grey, kind), {"files": 0, "highest": 0, "first": []})
            entry["files"] += 1
            entry["highest"] = max(entry["highest"], highest)
            if len(entry["first"]) < NAMED:
                entry["first"].append(name)

    def entries(self) -> list[Any]:
        """Returns the depths in the form that the progress record of an unfinished set stores."""
        return [[list(kind), entry] for kind, entry in self.found.items()]

    @classmethod
    def of(cls, entries: Iterable[Any]) -> "BitDepths":
        """Returns the depths that such entries describe."""
        return cls({(int(bits), bool(declared), bool(grey), str(kind)): dict(entry)
                    for (bits, declared, grey, kind), entry in entries})  # fmt: skip

    def resolve(self, given: int | None) -> int | None:
        """Returns the one depth of the set's grey pictures of more than 8 bits, or None if it has none.

        Args:
            given: prepare.bit_depth, which is returned if it is set. None: the depth follows from the files.

        Raises:
            UserError: If there are several depths, or pictures of undeclared depth have all their values in
                the lower half of the range.
        """
        if given is not None or not self.found:
            return given
        for (bits, declared, is_grey, kind), entry in sorted(self.found.items()):
            # Files of other kinds say nothing about these, whatever they declare and whatever their values are.
            if not declared and entry["highest"] < 2 ** (bits - 1):
                raise UserError(_dark(bits, is_grey, kind, entry))
        if len({bits for bits, *_ in self.found}) > 1:
            some = ", ".join(
                f"{entry['files']:,} of {bits} bits ({', '.join(entry['first'])})"
                for (bits, *_), entry in sorted(self.found.items())
            )
            advice = "Set prepare.bit_depth in params.yaml to the bits that all of them have, or save them alike."
            if not all(is_grey for _, _, is_grey, _ in self.found):  # Pillow reads colours as 16 bits only
                advice = "Save them alike, with 8 bits a channel."
            raise UserError(
                f"pictures of different depths: {some}. A value would mean one brightness in some of them and another "
                f"in others. {advice}"
            )
        greys = [bits for bits, _, is_grey, _ in self.found if is_grey]
        return greys[0] if greys else None


def _dark(bits: int, is_grey: bool, kind: str, entry: Mapping[str, Any]) -> str:
    """Returns the message about pictures whose values are all in the lower half of the range.

    Args:
        bits: Bits a channel that the file format implies.
        is_grey: Whether the pictures are grey.
        kind: Pillow's name of the file format.
        entry: Entry of `BitDepths.found` for these pictures.
    """
    what = f"{kind} pictures" if is_grey else f"{kind} pictures in colours"
    likely = next(usual for usual in USUAL if entry["highest"] < 2**usual)
    fewer = (
        f"If their values are of fewer bits, set prepare.bit_depth in params.yaml ({likely} bits hold them)"
        if is_grey
        else "If their values are of fewer bits, save them with 8 bits a channel"
    )
    own = f"set prepare.bit_depth in params.yaml to {bits}" if not is_grey else f"set it to {bits}"
    return (
        f"{entry['files']:,} {what.strip()} of {bits} bits ({', '.join(entry['first'])}): none has a value above "
        f"{entry['highest']:,} of {2**bits - 1:,}, so they would become dark or black. {fewer}; if they are "
        f"really that dark, {own}."
    )
