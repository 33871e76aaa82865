"""The GPU's kernel for spatial entropy, run on the CPU by Triton's interpreter: python interpreted.py CASES RESULTS

The interpreter must be asked for before triton is imported, which in a session of tests somebody has done already, so
this is a process of its own. CASES is a file of torch's with keywords of `triton_entropy`; RESULTS gets what it gave.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Results = list[tuple[Tensor, Tensor, Tensor]]


def interpreted(cases: list[dict[str, Any]], folder: Path) -> Results:
    """What the kernel gives for each case, in a process of its own."""
    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, __file__, str(folder / "cases.pt"), str(folder / "results.pt")]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: Results = torch.load(folder / "results.pt")
    return results


def main(source: str, target: str) -> None:
    from pipeline.regularizers.entropy_triton import triton_entropy

    torch.save([triton_entropy(**case) for case in torch.load(source)], target)


if __name__ == "__main__":
    main(*sys.argv[1:])
