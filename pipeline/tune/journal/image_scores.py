"""Scores of the validation images in each trial's first objective, in a file beside the journal.

Differences between configurations are judged image by image, and the trials' values alone do not show on which
images two networks differ. For accuracy, a score says whether the image was classified correctly, one bit an
image. For another metric it is the image's pseudo-value (`pipeline.score.metrics.jackknife`), four bytes an
image. The journal is meant to be readable, so the scores have a file of their own, one JSON object a line. A
line is on disk before the journal has the epoch that it belongs to. The first line of an epoch counts, as in
the journal, and a line torn by a crash is dropped.
"""

import base64
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.tune.journal.records import whole_lines

SCORES = "image_scores.jsonl"
"""Name of the file in a search's state directory."""
EARLIER = "correct.jsonl"
"""Name of the file in the state directory of a search that an earlier version began; such a search continues with it.
"""
_FLOATS = "float32:"

Scores = NDArray[np.bool_] | NDArray[np.float32]
"""Scores of the images, (N,) in the order of their ids."""


def pack_scores(scores: ArrayLike) -> str:
    """Returns the scores of the images, (N,) bool or numbers in the order of their ids, as text."""
    found = np.asarray(scores)
    if found.dtype == np.bool_:
        return f"{len(found)}:{base64.b64encode(np.packbits(found).tobytes()).decode()}"
    return f"{_FLOATS}{len(found)}:{base64.b64encode(found.astype('<f4').tobytes()).decode()}"


def unpack_scores(text: str) -> Scores:
    """Returns the scores of a text of `pack_scores`.

    Raises:
        ValueError: the text is not complete.
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
    """Scores of the images by trial and epoch.

    Args:
        path: The file to append to; None to store them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._packed = {} if path is None else dict(_read(path, repair=True))
        self._path = path

    def add(self, trial: str, epoch: int, packed: str) -> None:
        """Stores the scores of one epoch, unless there are some already.

        Args:
            trial: The trial's id.
            epoch: Number of the epoch, counted from 1.
            packed: The scores, as text of `pack_scores`.
        """
        if (trial, epoch) in self._packed:
            return
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(json.dumps({"trial": trial, "epoch": epoch, "scores": packed}).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self._packed[trial, epoch] = packed

    def at(self, trial: str, epoch: int) -> Scores | None:
        """Returns the scores of a trial's images at an epoch, (N,); None if they were not stored."""
        packed = self._packed.get((trial, epoch))
        return None if packed is None else unpack_scores(packed)

    def table(self, runs: Sequence[Sequence[tuple[str, int]]]) -> Scores | None:
        """Returns the scores of runs in rows and columns, (K, S, N).

        Args:
            runs: Pairs (trial, epoch).

        Returns:
            The table; None if a run has no scores, or not of as many images as the others.
        """
        found = [[self.at(*run) for run in row] for row in runs]
        lengths = {None if scores is None else len(scores) for row in found for scores in row}
        return None if None in lengths or len(lengths) != 1 else np.array(found)


def scores_path(folder: Path) -> Path:
    """Returns the path of the file in a search's state directory, whether or not it exists yet."""
    earlier = folder / EARLIER
    return earlier if earlier.exists() else folder / SCORES


def read_scores(folder: Path) -> ImageScores:
    """Reads the scores of a search, without changing its file.

    Args:
        folder: The search's state directory.
    """
    found = ImageScores()
    for (trial, epoch), packed in _read(scores_path(folder)):
        found.add(trial, epoch, packed)
    return found


def _read(path: Path, *, repair: bool = False) -> Iterator[tuple[tuple[str, int], str]]:
    """Yields the complete lines as ((trial, epoch), packed scores).

    Args:
        path: The file.
        repair: Whether to cut a torn last line off the file.
    """
    found: dict[tuple[str, int], str] = {}
    for line in whole_lines(path, repair=repair):
        try:
            event = json.loads(line)
            packed = event["scores"] if "scores" in event else event["correct"]
            unpack_scores(packed)
            found.setdefault((str(event["trial"]), int(event["epoch"])), packed)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # a damaged line leaves one epoch without scores, which callers handle
    yield from found.items()
