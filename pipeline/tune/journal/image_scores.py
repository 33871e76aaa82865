"""What each validation image counts for in a trial's first objective at an epoch, beside the journal.

Differences between configurations are judged image by image, and their values alone do not say on which images two
networks differ. Of accuracy it is whether an image was right, a bit an image; of another metric its pseudo-value
(`pipeline.score.metrics.jackknife`), four bytes an image. A journal that a person may read has no room for it, so it
stands in a file of its own, one JSON object a line. A line is on disk before the journal has the epoch that it belongs
to; the first of an epoch stays, as the journal's does, and what a crash has torn is dropped.
"""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.tune.journal.records import whole_lines

SCORES = "image_scores.jsonl"
"""Its name in a search's folder."""
EARLIER = "correct.jsonl"
"""Its name in the folder of a search that an earlier version began, which goes on under it."""
_FLOATS = "float32:"

Scores = NDArray[np.bool_] | NDArray[np.float32]


def pack_scores(scores: ArrayLike) -> str:
    """Write the scores of the images, (N,) bool or numbers in the order of their ids, as text."""
    found = np.asarray(scores)
    if found.dtype == np.bool_:
        return f"{len(found)}:{base64.b64encode(np.packbits(found).tobytes()).decode()}"
    return f"{_FLOATS}{len(found)}:{base64.b64encode(found.astype('<f4').tobytes()).decode()}"


def unpack_scores(text: str) -> Scores:
    """Read what `pack_scores` has written.

    Raises:
        ValueError: it is not whole.
    """
    floats = text.startswith(_FLOATS)
    number, _, content = text.removeprefix(_FLOATS).partition(":")
    count, data = int(number), base64.b64decode(content, validate=True)
    if floats:
        found = np.frombuffer(data, dtype="<f4")
        if len(found) != count:
            raise ValueError(f"{len(found)} numbers for {count} images")
        return found.astype(np.float32)
    packed = np.frombuffer(data, dtype=np.uint8)
    if 8 * len(packed) < count:
        raise ValueError(f"{8 * len(packed)} bits for {count} images")
    return np.unpackbits(packed, count=count).astype(bool)


class ImageScores:
    """What is known of each trial's epochs.

    Args:
        path: The file to append to; None to keep it in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._packed = {} if path is None else dict(_read(path, repair=True))
        self._path = path

    def add(self, trial: str, epoch: int, packed: str) -> None:
        """Write one epoch down, unless there is one already. packed: as `pack_scores` gives it."""
        if (trial, epoch) in self._packed:
            return
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(json.dumps({"trial": trial, "epoch": epoch, "scores": packed}).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self._packed[trial, epoch] = packed

    def at(self, trial: str, epoch: int) -> Scores | None:
        """The scores of a trial's images at an epoch, (N,); None where they were not written down."""
        packed = self._packed.get((trial, epoch))
        return None if packed is None else unpack_scores(packed)


def scores_path(folder: Path) -> Path:
    """The file of a search's folder, whether or not it is there yet."""
    earlier = folder / EARLIER
    return earlier if earlier.exists() else folder / SCORES


def read_scores(folder: Path) -> ImageScores:
    """What a search's folder holds, to be read alone."""
    found = ImageScores()
    for (trial, epoch), packed in _read(scores_path(folder)):
        found.add(trial, epoch, packed)
    return found


def _read(path: Path, *, repair: bool = False) -> Iterator[tuple[tuple[str, int], str]]:
    """The lines that are whole. repair: cut a torn last one off the file."""
    found: dict[tuple[str, int], str] = {}
    for line in whole_lines(path, repair=repair):
        try:
            event = json.loads(line)
            packed = event["scores"] if "scores" in event else event["correct"]
            unpack_scores(packed)
            found.setdefault((str(event["trial"]), int(event["epoch"])), packed)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # a damaged line leaves one epoch unknown, which is allowed for
    yield from found.items()
