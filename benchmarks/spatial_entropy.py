"""SAR's loss on the CPU, forward and backward, against the authors' released code and against the best of OpenCV.

Run: python benchmarks/spatial_entropy.py [--repetitions 15]

The other sides are those of `entropy_released.py`, which says what each is and why it is the best of its kind: the
released code's way, its algorithm without work for each component, and one labelling call for all maps. All get the
same maps, in one process, on one thread, by turns; what is counted is the processor time of the process, which other
work on the machine disturbs less than the clock's.
Maps are independent noise, smoothed noise, and those of a network that the benchmark trains on digits first.
"""

import argparse
import os
import time
from collections.abc import Callable

import cv2
import torch
from digits import trained_maps
from entropy_released import SIDES
from harness import Timing, header, keep, table, time_pairs
from torch import Tensor

from pipeline.regularizers.kernels.entropy_plain import plain_entropy
from pipeline.regularizers.spatial_entropy import spatial_entropy


def measure(maps: Tensor, repetitions: int) -> dict[str, Timing]:
    """Both sides on one set of maps, after checking that they agree, and plain PyTorch's share of ours."""

    def step(loss: Tensor, leaf: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient

    def whole(loss: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def work() -> Tensor:
            leaf = maps.clone().requires_grad_()
            return step(loss(leaf), leaf)

        return work

    def plain() -> Tensor:
        return plain_entropy(maps, torch.zeros(len(maps), dtype=torch.float64), 8, True)[2]

    theirs = {name: whole(loss) for name, loss in SIDES.items()}
    ours = whole(lambda leaf: spatial_entropy(leaf).mean())
    for work in theirs.values():
        torch.testing.assert_close(ours(), work(), atol=1e-5, rtol=1e-3)
    return time_pairs({"ours": ours, "plain": plain, **theirs}, repetitions=repetitions, clock=time.process_time)


def _rounded(ratios: dict[str, float]) -> dict[str, float]:
    return {name: round(ratio, 1) for name, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15, help="rounds of every side that count (default 15)")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    trained, accuracy = trained_maps(1536)
    rows, kept = [], []
    for count, side in ((768, 14), (1536, 14), (768, 6)):
        noise = torch.randn(count, side, side)
        smooth = torch.nn.functional.avg_pool2d(torch.randn(count, side + 4, side + 4), 5, stride=1)
        kinds = {"independent noise": noise, "smoothed noise": smooth}
        if side == 14:
            kinds["of a trained network"] = trained[:count]
        for kind, maps in kinds.items():
            timing = measure(maps, repetitions)
            over = {name: timing[name].over(timing["ours"]) for name in SIDES}
            theirs = [f"{timing[name]}: {over[name]:.1f}x" for name in SIDES]
            rows.append((f"{count} of {side} x {side}, {kind}", timing["ours"], timing["plain"], *theirs))
            kept.append({"maps": count, "side": side, "kind": kind, "over_ours": _rounded(over)})
    print(header("Spatial entropy, forward and backward, one CPU thread", ["torch", "numba", "opencv-python-headless"]))
    load = os.getloadavg()[0]
    print(
        f"Processor time, median (least-most) of {repetitions} repetitions; load of the machine {load:.1f}. Each row is"
    )
    print("a batch of similarity maps. *Ours* is the kernel of `pipeline/regularizers/spatial_entropy.py`; *plain")
    print("PyTorch* is this project's version without it, which computes value and gradient in closed form, without")
    print("autograd. The last three columns are alternatives (see below the tables): their time, and how many times as")
    print("long as ours it takes. The trained network is a small one, trained on digits (validation accuracy")
    print(f"{accuracy:.2f}).\n")
    print(table(["maps", "ours", "plain PyTorch", *SIDES], rows))
    keep("spatial_entropy", kept)


if __name__ == "__main__":
    main()
