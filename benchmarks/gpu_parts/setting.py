"""What a part is given, and where it puts what it found."""

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from harness import Timing


@dataclass(frozen=True)
class Setting:
    """device: all is measured on. quick: fewer rounds and sizes. seed: of every input. until: of `time.monotonic`."""

    device: torch.device
    quick: bool
    seed: int
    until: float

    @property
    def small(self) -> bool:
        """Whether sizes are those of a trial of the code, on a CPU, whose times say nothing."""
        return self.device.type != "cuda"

    def left(self) -> float:
        """Seconds until the part is ended."""
        return self.until - time.monotonic()

    def rounds(self, many: int) -> int:
        if self.small:
            return 1
        return max(3, many // 3) if self.quick else many

    def generator(self, stream: int = 0) -> torch.Generator:
        """Of the CPU, so that inputs are the same on every device."""
        return torch.Generator().manual_seed(self.seed * 1000 + stream)


@dataclass(frozen=True)
class Figure:
    """One number: the median of several, with least and most where there are several."""

    name: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None


@dataclass
class Report:
    """What a part found. Written at every addition, so that of a part that is ended what it had remains.

    wrong: what is not as it must be. notes: what was left out or changed, and why. detail: longer tables.
    """

    path: Path | None = None
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        self.figures.append(Figure(name, value, unit))
        self._write()

    def values(self, name: str, values: Sequence[float], unit: str) -> None:
        """The median of several, with its spread."""
        self.figures.append(Figure(name, statistics.median(values), unit, min(values), max(values)))
        self._write()

    def timing(self, name: str, timing: Timing, *, unit: str = "ms") -> None:
        factor = {"ms": 1.0, "us": 1000.0}[unit]
        self.values(name, [factor * each for each in timing.times], unit)

    def rate(self, name: str, timing: Timing, amount: float, unit: str) -> None:
        """amount: done in each call, in units a second."""
        self.values(name, [1000 * amount / each for each in timing.times], unit)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._write()

    def fail(self, text: str) -> None:
        self.wrong.append(text)
        self._write()

    def keep(self, name: str, content: Any) -> None:
        self.detail[name] = content
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        beside = self.path.with_suffix(".part")
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        beside.write_text(json.dumps(content))
        os.replace(beside, self.path)


def read_report(path: Path) -> Report:
    """What a part has written; an empty one of a part that has not."""
    if not path.exists():
        return Report()
    content = json.loads(path.read_text())
    figures = [Figure(**each) for each in content.pop("figures")]
    return Report(figures=figures, **content)
