"""What all benchmarks share: warm-up, interleaved repetitions, medians with their spread, a header with the machine.

A figure counts when both sides ran in one process, on the same inputs; ratios are taken pair by pair.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from pipeline.compute.limits import usable_cpus

SKIPPED = 77
"""Status of a benchmark that this machine cannot run."""


def skip(reason: str) -> NoReturn:
    """End a benchmark that cannot run here, and say why."""
    print(f"skipped: {reason}", flush=True)
    sys.exit(SKIPPED)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of every repetition, in the order of the rounds."""

    times: tuple[float, ...]

    def __str__(self) -> str:
        return f"{statistics.median(self.times):.3g} ({min(self.times):.3g}-{max(self.times):.3g}) ms"

    def over(self, other: "Timing") -> float:
        """How many times the other's time this took: the median of the rounds' ratios."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.times, other.times, strict=True))


def time_pairs(
    sides: Mapping[str, Callable[[], object]],
    *,
    repetitions: int = 15,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every side in turn, A B A B ..., after `warm_up` rounds that do not count. clock: gives seconds."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + repetitions):
        for name, work in sides.items():
            started = clock()
            work()
            if turn >= warm_up:
                spent[name].append(1000 * (clock() - started))
    return {name: Timing(tuple(times)) for name, times in spent.items()}


def header(title: str, packages: Sequence[str]) -> str:
    """Title, machine, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    load = f"load {os.getloadavg()[0]:.1f}; " if hasattr(os, "getloadavg") else ""
    return f"# {title}\n\n{model}, {usable_cpus()} cores; {load}Python {platform.python_version()}, {versions}\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(map(str, row)) for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def keep(name: str, content: object, *, compact: bool = False) -> None:
    """Write the figures to benchmarks/results/NAME.json. compact: all in one line."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=None if compact else 2) + "\n")
