"""SAR's loss on the CPU, forward and backward, against the published algorithm.

Run: python benchmarks/spatial_entropy.py

The other side restates the published algorithm as straightforwardly as it is published: a Python loop with one
labelling call a map and one dense mask a component. Both get the same maps, in one process, on one thread.
"""

import numpy as np
import torch
from harness import Timing, header, keep, table, time_pairs
from scipy import ndimage
from torch import Tensor

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


def measure(maps: Tensor) -> dict[str, Timing]:
    """Both sides on one set of maps, after checking that they agree."""

    def step(loss: Tensor, leaf: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient

    def ours() -> Tensor:
        leaf = maps.clone().requires_grad_()
        return step(spatial_entropy(leaf).mean(), leaf)

    def theirs() -> Tensor:
        leaf = maps.clone().requires_grad_()
        return step(published(leaf), leaf)

    torch.testing.assert_close(ours(), theirs(), atol=1e-5, rtol=1e-3)
    return time_pairs({"ours": ours, "published": theirs})


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, kept = [], []
    for count, side in ((768, 14), (1536, 14), (768, 6)):
        noise = torch.randn(count, side, side)
        smooth = torch.nn.functional.avg_pool2d(torch.randn(count, side + 4, side + 4), 5, stride=1)
        for kind, maps in (("independent noise", noise), ("smoothed noise", smooth)):
            timing = measure(maps)
            ratio = timing["published"].over(timing["ours"])
            shown = f"{count} maps of {side} x {side}, {kind}"
            rows.append((shown, timing["ours"], timing["published"], f"{ratio:.0f}x"))
            kept.append({"maps": count, "side": side, "kind": kind, "ratio": round(ratio, 1)})
    print(header("Spatial entropy, forward and backward, one CPU thread", ["torch", "scipy"]))
    print(table(["maps", "ours", "published algorithm", "ratio"], rows))
    keep("spatial_entropy", kept)


if __name__ == "__main__":
    main()
