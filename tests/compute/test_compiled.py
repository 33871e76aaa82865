"""Claims about compiled kernels: what is kept of them is kept by processor, and each is found again by its own."""

import os
import subprocess
import sys
from pathlib import Path

KERNEL = """
from pipeline.compute.compiled import compile_kernel

@compile_kernel
def half(number):
    return number / 2
"""
CALLED = """
import kernel
assert kernel.half(3.0) == 1.5
print(sum(kernel.half.stats.cache_hits.values()), sum(kernel.half.stats.cache_misses.values()))
"""


def hits_and_misses(folder: Path, processor: str | None) -> list[int]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    settings |= {"NUMBA_CPU_NAME": processor} if processor else {}
    done = subprocess.run([sys.executable, "-c", CALLED], cwd=folder, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(count) for count in done.stdout.split()]


def test_what_is_compiled_for_one_processor_is_not_run_on_another(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    assert [hits_and_misses(tmp_path, processor) for processor in (None, "generic")] == [[0, 1], [0, 1]]
    assert [hits_and_misses(tmp_path, processor) for processor in (None, "generic")] == [[1, 0], [1, 0]]
