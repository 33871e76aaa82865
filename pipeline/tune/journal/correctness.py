"""Which validation images a trial got right at an epoch, beside the journal: one JSON object a line, a bit an image.

Differences between configurations are judged image by image, and accuracies alone do not say on which images two
networks differ. A journal that a person may read has no room for it. A line is on disk before the journal has the epoch
that it belongs to; the first of an epoch stays, as the journal's does, and what a crash has torn is dropped.
"""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.tune.journal.records import whole_lines

CORRECT = "correct.jsonl"
"""Its name in a search's folder."""


def pack_correct(correct: ArrayLike) -> str:
    """Write which images were right, (N,) bool in the order of their ids, as text."""
    flags = np.asarray(correct, dtype=bool)
    return f"{len(flags)}:{base64.b64encode(np.packbits(flags).tobytes()).decode()}"


def unpack_correct(text: str) -> NDArray[np.bool_]:
    """Read what `pack_correct` has written.

    Raises:
        ValueError: it is not whole.
    """
    count, _, bits = text.partition(":")
    packed = np.frombuffer(base64.b64decode(bits, validate=True), dtype=np.uint8)
    if 8 * len(packed) < int(count):
        raise ValueError(f"{8 * len(packed)} bits for {count} images")
    return np.unpackbits(packed, count=int(count)).astype(bool)


class CorrectImages:
    """What is known of each trial's epochs.

    Args:
        path: The file to append to; None to keep it in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._packed = {} if path is None else dict(_read(path, repair=True))
        self._path = path

    def add(self, trial: str, epoch: int, packed: str) -> None:
        """Write one epoch down, unless there is one already. packed: as `pack_correct` gives it."""
        if (trial, epoch) in self._packed:
            return
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(json.dumps({"trial": trial, "epoch": epoch, "correct": packed}).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self._packed[trial, epoch] = packed

    def at(self, trial: str, epoch: int) -> NDArray[np.bool_] | None:
        """Which images a trial got right at an epoch, (N,); None where that was not written down."""
        packed = self._packed.get((trial, epoch))
        return None if packed is None else unpack_correct(packed)


def read_correct(folder: Path) -> CorrectImages:
    """What a search's folder holds, to be read alone."""
    found = CorrectImages()
    for (trial, epoch), packed in _read(folder / CORRECT):
        found.add(trial, epoch, packed)
    return found


def _read(path: Path, *, repair: bool = False) -> Iterator[tuple[tuple[str, int], str]]:
    """The lines that are whole. repair: cut a torn last one off the file."""
    found: dict[tuple[str, int], str] = {}
    for line in whole_lines(path, repair=repair):
        try:
            event = json.loads(line)
            unpack_correct(event["correct"])
            found.setdefault((str(event["trial"]), int(event["epoch"])), event["correct"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # a damaged line leaves one epoch unknown, which is allowed for
    yield from found.items()
