"""SAR's loss, forward and backward: ours on the device, the authors' way on this machine's CPU, public labellings.

The authors' way, restated: one labelling call a map, all components' masks gathered in one indexing. It has its maps on
the CPU and leaves its gradient there, which is more than it gets in training. The public labellings only label, on the
device, so theirs is a part of the work and ours the whole.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from gpu_parts.machine import has
from gpu_parts.setting import Report, Setting
from gpu_parts.timing import Work, by_turns, captured
from pipeline.regularizers.spatial_entropy import spatial_entropy


def run(setting: Setting, report: Report) -> None:
    label = labeller(report)
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
        if label is not None:
            host = maps.clone().requires_grad_()

            def authors(host: Tensor = host, label: Callable[[np.ndarray], np.ndarray] = label) -> Tensor:
                return gradient(lambda given: authors_loss(given, label), host)

            theirs, mine = authors(), gradient(ours, leaf).cpu()
            difference = float((theirs - mine).abs().max() / theirs.abs().max())
            if not difference < 1e-3:
                report.fail(f"{kind}: the authors' gradient is another one, by {difference:.2g} of its largest value")
            timing = by_turns({"": authors}, torch.device("cpu"), rounds=setting.rounds(5), seconds=3)[""]
            threads = torch.get_num_threads()
            report.timing(f"{kind}: the authors' way on the CPU, {threads} threads", timing, unit="us")


def ours(maps: Tensor) -> Tensor:
    return spatial_entropy(maps).mean()


def gradient(loss: Callable[[Tensor], Tensor], leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    return found


def interpreted(maps: Tensor, report: Report) -> None:
    """On a CPU the kernel runs by Triton's interpreter: tried, not timed."""
    from pipeline.regularizers.entropy_triton import triton_entropy

    found, _, _ = triton_entropy(maps[:1], 0.0, 8, True)
    if not bool(torch.isclose(found, spatial_entropy(maps[:1]), atol=1e-5).all()):
        report.fail("the interpreted kernel gives another value")


Labeller = Callable[[np.ndarray], np.ndarray]


def labeller(report: Report) -> Labeller | None:
    """Labels of one mask (H, W) uint8, 8 neighbours: OpenCV's as the authors call it, else SciPy's."""
    if has("cv2"):
        cv2 = import_module("cv2")
        report.note("the authors' way labels by OpenCV, as theirs does")
        return lambda mask: np.asarray(cv2.connectedComponents(mask, connectivity=8)[1])
    try:
        from scipy import ndimage
    except ImportError:
        report.note("the authors' way: needs cv2 or scipy")
        return None
    report.note("the authors' way labels by SciPy, since there is no cv2")
    eight = np.ones((3, 3), dtype=int)
    return lambda mask: np.asarray(ndimage.label(mask, structure=eight)[0])


def authors_loss(maps: Tensor, label: Labeller) -> Tensor:
    """Mean entropy of maps (n, H, W) on the CPU."""
    excess = torch.relu(maps - maps.mean((1, 2), keepdim=True))
    inside = (excess.detach() > 0).to(torch.uint8).numpy()
    labels = torch.from_numpy(np.stack([label(mask) for mask in inside]))
    counts = labels.amax((1, 2))
    owner = torch.arange(len(maps)).repeat_interleave(counts)
    number = torch.cat([torch.arange(1, count + 1) for count in counts.tolist()])
    masks = labels[owner] == number[:, None, None]
    shares = (excess[owner] * masks).sum((1, 2)) / excess.sum((1, 2))[owner]
    return torch.zeros(len(maps)).index_add(0, owner, -shares * shares.log()).mean()


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

        even = torch.nn.functional.pad(mask, (0, maps.shape[-1] % 2, 0, maps.shape[-2] % 2)).to(torch.uint8)
        found["cc_torch's labels only, a call a map"] = lambda: [
            cc_torch.connected_components_labeling(each) for each in even
        ]
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
