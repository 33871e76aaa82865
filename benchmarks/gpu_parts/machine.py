"""What is measured on: device, processor, versions."""

import os
import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

NEEDED = ("torch", "torchvision", "timm", "triton", "numpy")
WELCOME = {
    "numba": "numba", "scipy": "scipy", "opencv-python-headless": "cv2", "opencv-python": "cv2", "kornia": "kornia",
    "cc_torch": "cc_torch",
}  # fmt: skip
"""What parts use where it is there: by name, the module."""


def describe(*, anywhere: bool) -> dict[str, Any]:
    """device: in a line. gpu: what torch says of it, None where nothing is measured on one. versions: of packages."""
    gpu = None if anywhere else _gpu()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = f"{_processor()}, {cores} cores"
    no_gpu = "no GPU: a trial of the code on a CPU, whose figures say nothing of a GPU"
    return {
        "device": gpu["name"] if gpu else no_gpu,
        "gpu": gpu,
        "processor": processor,
        "python": platform.python_version(),
        "versions": {name: version for name in (*NEEDED, *WELCOME) if (version := _version(name)) is not None},
    }


def has(module: str) -> bool:
    """Whether a module could be imported."""
    return find_spec(module) is not None


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_gib": round(found.total_memory / 2**30, 1),
        "multiprocessors": found.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
