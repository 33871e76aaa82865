"""SAR's loss on the CPU, forward and backward, against the published algorithm.

Run: python benchmarks/spatial_entropy.py [--repetitions 15]

The other side restates the published algorithm as straightforwardly as it is published: a Python loop with one
labelling call a map and one dense mask a component. Both get the same maps, in one process, on one thread, by turns;
what is counted is the processor time of the process, which other work on the machine disturbs less than the clock's.
Maps are independent noise, smoothed noise, and those of a network that the benchmark trains on digits first.
"""

import argparse
import os
import time

import numpy as np
import torch
from digits import trained_maps
from harness import Timing, header, keep, table, time_pairs
from scipy import ndimage
from torch import Tensor

from pipeline.regularizers.entropy_plain import plain_entropy
from pipeline.regularizers.spatial_entropy import spatial_entropy

EIGHT = np.ones((3, 3), dtype=int)


def published(maps: Tensor) -> Tensor:
    """Mean entropy of maps (n, H, W): one labelling call a map, one dense mask a component."""
    entropies = []
    for one in maps:
        mean = one.mean()
        excess = torch.relu(one - mean)
        labels, count = ndimage.label((one.detach() > mean).numpy(), structure=EIGHT)
        total = excess.sum()
        entropy = one.new_zeros(())
        for component in range(1, count + 1):
            share = (excess * torch.from_numpy(labels == component)).sum() / total
            entropy = entropy - share * share.log()
        entropies.append(entropy)
    return torch.stack(entropies).mean()


def measure(maps: Tensor, repetitions: int) -> dict[str, Timing]:
    """Both sides on one set of maps, after checking that they agree, and plain PyTorch's share of ours."""

    def step(loss: Tensor, leaf: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient

    def ours() -> Tensor:
        leaf = maps.clone().requires_grad_()
        return step(spatial_entropy(leaf).mean(), leaf)

    def theirs() -> Tensor:
        leaf = maps.clone().requires_grad_()
        return step(published(leaf), leaf)

    def plain() -> Tensor:
        return plain_entropy(maps, torch.zeros(len(maps), dtype=torch.float64), 8, True)[2]

    torch.testing.assert_close(ours(), theirs(), atol=1e-5, rtol=1e-3)
    sides = {"ours": ours, "plain": plain, "published": theirs}
    return time_pairs(sides, repetitions=repetitions, clock=time.process_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15, help="rounds of every side that count (default 15)")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
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
            ratio = timing["published"].over(timing["ours"])
            shown = f"{count} maps of {side} x {side}, {kind}"
            rows.append((shown, timing["ours"], timing["plain"], timing["published"], f"{ratio:.0f}x"))
            kept.append({"maps": count, "side": side, "kind": kind, "ratio": round(ratio, 1)})
    print(header("Spatial entropy, forward and backward, one CPU thread", ["torch", "scipy", "numba"]))
    load = os.getloadavg()[0]
    print(f"Processor time, median (least-most) of {repetitions}; load of the machine {load:.1f}. The trained")
    print(f"network has a validation accuracy of {accuracy:.2f}. Plain PyTorch is measured without autograd.\n")
    print(table(["maps", "ours", "plain PyTorch", "published algorithm", "ratio"], rows))
    keep("spatial_entropy", kept)


if __name__ == "__main__":
    main()
