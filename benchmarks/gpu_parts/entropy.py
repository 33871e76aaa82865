"""SAR's loss, forward and backward: ours on the device, the authors' way on this machine's CPU, public labellings.

The authors' way and the best of it stand in `entropy_released.py`. They have their maps on the CPU and leave the
gradient there, which is less than in training. The public labellings only label, on the device, so theirs is a part of
the work and ours the whole.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gpu_parts.machine import has
from gpu_parts.setting import Report, Setting
from gpu_parts.timing import Work, by_turns, captured
from pipeline.regularizers.spatial_entropy import spatial_entropy


def run(setting: Setting, report: Report) -> None:
    released = authors(report)
    counts = [16] if setting.small else [1536] if setting.quick else [1536, 18432]
    for count in counts:
        maps = torch.randn(count, 14, 14, generator=setting.generator())
        leaf = maps.to(setting.device).requires_grad_()
        kind = f"{count} maps of 14 x 14"
        sides: dict[str, Work] = {"ours, eagerly through autograd": partial(gradient, ours, leaf)}
        if setting.small:
            interpreted(maps, report)
        else:
            graph, _ = captured(partial(gradient, ours, leaf))
            sides = {"ours, a CUDA graph replayed": graph.replay, **sides}
        sides |= labellings(leaf.detach(), report)
        for side, timing in by_turns(sides, setting.device, rounds=setting.rounds(15), calls=3, seconds=3).items():
            report.timing(f"{kind}: {side}", timing, unit="us")
        mine, host = gradient(ours, leaf).cpu(), maps.clone().requires_grad_()
        for name, theirs in released.items():
            work = partial(gradient, theirs, host)
            found = work()
            difference = float((found - mine).abs().max() / found.abs().max())
            if not difference < 1e-3:
                report.fail(f"{kind}: the gradient, {name}, is another one, by {difference:.2g} of its largest value")
            timing = by_turns({"": work}, torch.device("cpu"), rounds=setting.rounds(5), seconds=1)[""]
            report.timing(f"{kind}: {name}, on the CPU, {torch.get_num_threads()} threads", timing, unit="us")


def ours(maps: Tensor) -> Tensor:
    return spatial_entropy(maps).mean()


def gradient(loss: Callable[[Tensor], Tensor], leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def interpreted(maps: Tensor, report: Report) -> None:
    """On a CPU the kernel runs by Triton's interpreter: tried, not timed."""
    from pipeline.regularizers.kernels.entropy_triton import triton_entropy

    found, _, _ = triton_entropy(maps[:1], 0.0, 8, True)
    if not bool(torch.isclose(found, spatial_entropy(maps[:1]), atol=1e-5).all()):
        report.fail("the interpreted kernel gives another value")


def authors(report: Report) -> dict[str, Callable[[Tensor], Tensor]]:
    """The other sides that label on the CPU; none where neither OpenCV nor SciPy is there."""
    try:
        from entropy_released import LABELS_BY, SIDES
    except ImportError:
        report.note("the authors' way: needs cv2 or scipy")
        return {}
    report.note(f"the authors' way labels by {LABELS_BY}" + (", as theirs does" if LABELS_BY == "OpenCV" else ""))
    return {name.replace("cv2", "labelling"): side for name, side in SIDES.items()}


def labellings(maps: Tensor, report: Report) -> dict[str, Work]:
    """Public labellings on the device that are installed, each of all masks; those that fail are told."""
    mask = maps > maps.mean((1, 2), keepdim=True)
    pictures, most = mask[:, None].float(), maps.shape[-1] * maps.shape[-2]
    found: dict[str, Work] = {}
    if has("kornia"):
        from kornia.contrib import connected_components

        found["kornia's labels only"] = lambda: connected_components(pictures, num_iterations=most)
    if has("cc_torch") and maps.is_cuda:
        import cc_torch

        # One picture a call, whose sides must be even: all maps in one, with empty rows between them.
        height, width = maps.shape[1:]
        even = torch.nn.functional.pad(mask, (0, width % 2, 0, 1 + (height + 1) % 2)).to(torch.uint8)
        picture = even.reshape(-1, even.shape[-1]).contiguous()
        found["cc_torch's labels only, all maps in one picture"] = lambda: cc_torch.connected_components_labeling(
            picture
        )
    missing = [name for name in ("kornia", "cc_torch") if not has(name)]
    if missing and not any("public labelling" in note for note in report.notes):
        report.note(f"public labelling not installed: {', '.join(missing)}")
    for name, work in list(found.items()):
        try:
            work()
        except Exception as error:  # of others' code, whose failing is no failing of ours
            del found[name]
            report.note(f"{name}: {type(error).__name__}: {str(error)[:100]}")
    return found
