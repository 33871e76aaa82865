"""SAR's loss on a GPU, forward and backward, against the released code and against public labellings.

Run: python benchmarks/spatial_entropy_gpu.py

The maps lie on the GPU. The other sides of `entropy_released.py` copy what is above the mean to the CPU, label there
map by map, as the authors' code does, or all at once, which is the best of it, and bring masks or labels back.
Ours is measured eagerly, through autograd, and as a replay of a CUDA graph that holds the same forward and backward.
The public labellings are kornia's and cc_torch's, where they are installed; they label only, so theirs is a part of the
work and ours the whole. Without a GPU it says so and measures nothing.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from entropy_released import SIDES
from harness import header, keep, table, time_pairs
from torch import Tensor

from pipeline.regularizers.spatial_entropy import spatial_entropy


def gradient(loss: Callable[[Tensor], Tensor], leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def replayed(leaf: Tensor) -> Callable[[], object]:
    """Forward and backward, captured."""
    aside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            gradient(lambda maps: spatial_entropy(maps).mean(), leaf)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gradient(lambda maps: spatial_entropy(maps).mean(), leaf)
    return graph.replay


def labellings(maps: Tensor) -> dict[str, Callable[[], object]]:
    """Public labellings that are installed, each on all masks at once."""
    mask = maps > maps.mean((-2, -1), keepdim=True)
    found: dict[str, Callable[[], object]] = {}
    if find_spec("kornia"):
        from kornia.contrib import connected_components

        pictures, most = mask[:, None].float(), maps.shape[-1] * maps.shape[-2]
        found["kornia, labels only"] = lambda: connected_components(pictures, num_iterations=most)
    if find_spec("cc_torch"):
        import cc_torch

        # One picture a call, whose sides must be even.
        even = torch.nn.functional.pad(mask, (0, mask.shape[-1] % 2, 0, mask.shape[-2] % 2)).to(torch.uint8)
        found["cc_torch, labels only"] = lambda: [cc_torch.connected_components_labeling(one) for one in even]
    return found


def waiting(work: Callable[[], object]) -> Callable[[], object]:
    def waited() -> None:
        work()
        torch.cuda.synchronize()

    return waited


def main() -> None:
    if not torch.cuda.is_available():
        print("spatial_entropy_gpu: skipped: needs a CUDA device, and torch sees none here")
        return
    torch.manual_seed(0)
    rows, kept = [], []
    for count in (1536, 18432):
        leaf = torch.randn(count, 14, 14, device="cuda").requires_grad_()
        ours = gradient(lambda maps: spatial_entropy(maps).mean(), leaf)
        for theirs in SIDES.values():
            torch.testing.assert_close(ours, gradient(theirs, leaf), atol=1e-5, rtol=1e-3)
        sides: dict[str, Any] = {
            "graph": replayed(leaf),
            "eager": lambda leaf=leaf: gradient(lambda maps: spatial_entropy(maps).mean(), leaf),
            **{name: partial(gradient, loss, leaf) for name, loss in SIDES.items()},
            **labellings(leaf.detach()),
        }
        timing = time_pairs({name: waiting(work) for name, work in sides.items()}, repetitions=10)
        for name, taken in timing.items():
            ratio = taken.over(timing["graph"])
            rows.append((f"{count} maps of 14 x 14", name, taken, f"{ratio:.1f}x"))
            kept.append({"maps": count, "side": name, "over_graph": round(ratio, 1)})
    missing = [name for name in ("kornia", "cc_torch") if not find_spec(name)]
    print(header(f"Spatial entropy on {torch.cuda.get_device_name()}, forward and backward", ["torch", "triton"]))
    print(table(["maps", "side", "time", "of the replay's"], rows))
    print(f"\nnot installed, so not measured: {', '.join(missing)}" if missing else "")
    keep("spatial_entropy_gpu", kept)


if __name__ == "__main__":
    main()
