"""Every benchmark that this machine can run, one after the other, and what was skipped, with the reason.

Run: make bench, or python benchmarks/run_all.py [NAME ...]
"""

import subprocess
import sys
import time
from pathlib import Path

from harness import SKIPPED, table

HERE = Path(__file__).parent
NO_BENCHMARKS = {"run_all", "harness", "copied", "digits", "entropy_released", "mlflow_server", "simulate"}
NO_BENCHMARKS |= {"curve_tables", "rivals", "neps_search"}
"""What the others share."""
BY_HAND = {
    "kill_search": "takes an hour; run it by itself",
    "search_health": "simulates thousands of searches, for an hour; run it by itself",
    "record_curves": "records what search_quality replays, for hours; run it by itself",
    "record_choosing": "records what choosing replays, for most of an hour; run it by itself",
    "metric_coverage": "trains and simulates for many minutes; run it by itself",
    "fold_coverage": "simulates for many minutes; run it by itself",
    "verdicts": "simulates for many minutes; run it by itself",
    "cluster_overhead": "starts several nodes, for many minutes; run it by itself",
}

WITHOUT_GPU = {"gpu": 2}
"""The status by which a command that people run too says that there is no GPU."""


def benchmarks() -> list[str]:
    """Names of the scripts, in alphabetical order."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NO_BENCHMARKS)


def run(name: str) -> tuple[str, str]:
    """Run one, showing what it prints as it comes. Returns how it went and, if it did not run, why."""
    if name in BY_HAND:
        return "skipped", BY_HAND[name]
    last = ""
    with subprocess.Popen([sys.executable, str(HERE / f"{name}.py")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode == SKIPPED:
        return "skipped", last.removeprefix("skipped: ")
    if process.returncode == WITHOUT_GPU.get(name):
        return "skipped", "needs a CUDA device"
    return ("done", "") if process.returncode == 0 else ("FAILED", f"status {process.returncode}")


def main(asked: list[str]) -> int:
    """Run those asked for, or all. Returns the status to end with: 1 if one failed."""
    unknown = sorted(set(asked) - set(benchmarks()))
    if unknown:
        print(f"error: no benchmark {', '.join(unknown)}; there are {', '.join(benchmarks())}", file=sys.stderr)
        return 2
    rows = []
    for name in asked or benchmarks():
        started = time.perf_counter()
        how, why = run(name)
        rows.append((name, how, f"{time.perf_counter() - started:.0f} s", why))
        print(flush=True)
    print(table(["benchmark", "", "took", "why"], rows))
    return int(any(how == "FAILED" for _, how, _, _ in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
