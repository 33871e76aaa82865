"""The GPU's kernels, run on the CPU by Triton's interpreter: python triton_interpreter.py KERNEL CASES RESULTS

The interpreter must be asked for before triton is imported, which in a session of tests somebody has done already, so
this is a process of its own. KERNEL is `module:function`; CASES is a file of torch's with keywords of that function;
RESULTS gets what it gave, and what it was given, which it may have written to.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ENTROPY = "pipeline.regularizers.kernels.entropy_triton:triton_entropy"


def interpreted(cases: list[dict[str, Any]], folder: Path, kernel: str = ENTROPY) -> list[Any]:
    """What the kernel gives for each case, in a process of its own; tensors that it writes to are written to in `cases`."""
    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, __file__, kernel, str(folder / "cases.pt"), str(folder / "results.pt")]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: list[Any]
    results, written = torch.load(folder / "results.pt")
    for case, after in zip(cases, written, strict=True):
        case |= after
    return results


def main(kernel: str, source: str, target: str) -> None:
    module, _, name = kernel.partition(":")
    function, cases = getattr(importlib.import_module(module), name), torch.load(source)
    torch.save(([function(**case) for case in cases], cases), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
