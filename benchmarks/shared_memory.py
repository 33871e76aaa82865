"""How much memory two trials on one node take for one prepared array set.

Run: python benchmarks/shared_memory.py [--megabytes 200]

Two processes open the same set, make batches of all of it as a trial does, and read every batch once. What is counted
is how their proportional set sizes (Linux: a page that two processes have mapped counts half in each) have grown, once
both are through. The other side is what `--copy` does: the role's rows gathered into an array of the process's own.
Its best is not to copy either: whatever maps one copy into both (Ray's object store, a memory-mapped file as here)
takes what ours takes, and there is nothing to win against it. The figure says what sharing is worth, no more.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from harness import header, keep, table

from pipeline.data.augment.augment import Augmentation
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.prepared import Prepared

SIDE, CHANNELS = 32, 3


def write(path: Path, megabytes: int) -> None:
    """An array of so many megabytes of noise images."""
    count = megabytes * 2**20 // (SIDE * SIDE * CHANNELS)
    np.save(path, np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, CHANNELS), dtype=np.uint8))


def proportional() -> int:
    """Bytes of this process, shared pages by their share."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def trial(path: Path, copy: bool) -> None:
    """One of the processes: says how much it has grown, between lines that keep it in step with the other."""
    torch.set_num_threads(1)
    small = np.zeros((8, SIDE, SIDE, CHANNELS), dtype=np.uint8)
    read_through(batches(small))  # compiles, and takes what every process takes
    before = proportional()
    print("begun", flush=True)
    sys.stdin.readline()
    images = np.load(path, mmap_mode="r")
    kept = batches(np.array(images) if copy else images)
    read_through(kept)
    print("read", flush=True)
    sys.stdin.readline()
    print(proportional() - before, flush=True)
    sys.stdin.readline()


def batches(images: Any) -> ImageBatches:
    prepared = Prepared(images, np.zeros(len(images), dtype=np.int64), None, {})
    scale = Standardisation((0.5,) * CHANNELS, (0.25,) * CHANNELS)
    return ImageBatches(prepared, np.arange(len(images)), scale, torch.device("cpu"))


def read_through(images: ImageBatches) -> None:
    for _ in images.in_order(256):
        pass
    for _ in images.shuffled(256, seed=0, epoch=0, augmentation=Augmentation("light")):
        pass


def grown(path: Path, *, copy: bool) -> list[int]:
    """Bytes that each of two processes has grown by."""
    command = [sys.executable, __file__, "--trial", str(path), *(["--copy"] if copy else [])]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for _ in ("begun", "read"):
            for each in both:
                assert _of(each.stdout).readline()
            for each in both:
                _tell(each)
        found = [int(_of(each.stdout).readline()) for each in both]
        for each in both:
            _tell(each)
        return found
    finally:
        for each in both:
            each.kill()
            each.communicate()


def _tell(process: subprocess.Popen[str]) -> None:
    stdin = _of(process.stdin)
    stdin.write("\n")
    stdin.flush()


def _of(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--trial", type=Path)
    parser.add_argument("--copy", action="store_true")
    chosen = parser.parse_args()
    if chosen.trial is not None:
        trial(chosen.trial, chosen.copy)
        return
    rows, kept = [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        write(path, chosen.megabytes)
        for name, copy in (("ours", False), ("a copy in each", True)):
            found = [size / 2**20 for size in grown(path, copy=copy)]
            rows.append((name, *(f"{size:.0f} MB" for size in found), f"{sum(found):.0f} MB"))
            kept[name] = [round(size, 1) for size in found]
    print(header(f"Memory of two trials that share a set of {chosen.megabytes} MB", ["numpy", "torch"]))
    print(table(["", "first trial", "second trial", "both"], rows))
    keep("shared_memory", kept)


if __name__ == "__main__":
    main()
