"""Every path of ours on the device against float64 on the CPU: new inputs each time, nasty ones too, outputs poisoned.

Kernels are also called by themselves, which under --anywhere is by Triton's interpreter.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from gpu_parts.check_training import feeds, networks, optimizers
from gpu_parts.checking import Comparison, poisoned, spread_keys
from gpu_parts.reference import clear, entropies, nasty
from gpu_parts.setting import Report, Setting
from gpu_parts.timing import captured
from pipeline.models.rows import key_passthrough, query_passthrough, split_projected

Check = Callable[[Setting], Iterator[Comparison]]


def run(setting: Setting, report: Report) -> None:
    for name, check in CHECKS.items():
        if name in NEED_CUDA and setting.small:
            report.note(f"{name}: needs a GPU")
            continue
        judge(name, check, setting, report)


def judge(name: str, check: Check, setting: Setting, report: Report) -> None:
    """One check: its worst error as a share of what is allowed. What it lacks is noted; what it raises is wrong."""
    worst, count = 0.0, 0
    try:
        for compared in check(setting):
            error = compared.error()
            worst, count = max(worst, error), count + 1
            if not error < 1.0:
                report.fail(f"{name}: {compared.name}: {error:.3g} times the error that is allowed")
    except ModuleNotFoundError as error:
        report.note(f"{name}: checked {count}, the rest needs {error.name}")
    except Exception as error:  # the other checks are to be made
        report.fail(f"{name}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
    if count:
        report.add(f"{name}, {count} comparisons: worst error", worst, "of the allowed")


def kernel_cases(setting: Setting, stream: int) -> Iterator[tuple[str, Tensor, Tensor, int]]:
    """Maps and the thresholds of each, with the connectivity; those whose cut rounding decides are left out."""
    generator = setting.generator(stream)
    many = 2 if setting.small else 64
    single, double = torch.float32, torch.float64
    sizes = [(6, 6, single), (5, 4, double)]
    nasty_ones = [(5, 8)]
    if not setting.small:  # each with other constants is a second of Triton's compiling, so not every one with all
        sizes = [(14, 14, single), (6, 6, single), (14, 14, double), (32, 32, single), (9, 20, double), (1, 9, single)]
        sizes += [(3, 32, single), (1, 1, single)]
        nasty_ones = [(14, 8), (15, 8), (15, 4), (32, 8)]
    given: list[tuple[str, Tensor, int, tuple[bool, ...]]] = []
    for number, (height, width, dtype) in enumerate(sizes):
        maps = 5 * torch.randn(many, height, width, generator=generator, dtype=dtype)
        given.append((f"noise {height} x {width}", maps, 4 if number % 3 == 1 else 8, (number % 2 == 0,)))
    for side, connectivity in nasty_ones:
        given.append((f"nasty {side} x {side}", nasty(side, generator).float(), connectivity, (True, False)))
    for name, maps, connectivity, kinds in given:
        for by_map in kinds:
            thresholds = torch.rand(len(maps), generator=generator, dtype=torch.float64) * 2 - 0.5
            if not by_map:
                thresholds.zero_()
            kept, kind = clear(maps, thresholds), "a threshold a map" if by_map else "at the mean"
            yield f"{name}, {connectivity} neighbours, {kind}", maps[kept], thresholds[kept], connectivity


def entropy_kernel(setting: Setting) -> Iterator[Comparison]:
    """`triton_entropy` by itself."""
    from pipeline.regularizers.kernels.entropy_triton import triton_entropy

    for name, maps, thresholds, connectivity in kernel_cases(setting, 1):
        given: float | Tensor = thresholds.to(setting.device) if bool(thresholds.any()) else 0.0
        with poisoned(setting.device):
            found = triton_entropy(maps.to(setting.device), given, connectivity, True)
        within = 1e-10 if maps.dtype == torch.float64 else 1e-5
        for part, one, other in zip(PARTS, found, entropies(maps, thresholds, connectivity), strict=True):
            yield Comparison(f"{name}: {part}", one, other, within)


PARTS = ("value", "empty", "gradient")


def entropy_in_autograd(setting: Setting) -> Iterator[Comparison]:
    """`spatial_entropy` as training calls it, from its maps' precision and back, with a gradient from above."""
    from pipeline.regularizers.spatial_entropy import entropy_and_empty

    generator = setting.generator(2)
    larger = [] if setting.small else [(4, 40, 24, torch.float32)]  # beyond the kernel: the plain path
    for count, height, width, dtype in [(20, 14, 14, torch.float32), (20, 14, 14, torch.bfloat16), *larger]:
        maps = torch.randn(count, height, width, generator=generator).to(dtype)
        thresholds = torch.full((count,), 0.2, dtype=torch.float64)
        maps, thresholds = (each[clear(maps, thresholds)] for each in (maps, thresholds))
        above = torch.randn(len(maps), generator=generator)
        leaf = maps.to(setting.device).requires_grad_()
        with poisoned(setting.device):
            value, empty = entropy_and_empty(leaf, threshold=0.2)
            (gradient,) = torch.autograd.grad((value * above.to(setting.device)).sum(), leaf)
        expected = entropies(maps, thresholds, 8)
        expected = expected[0], expected[1], expected[2] * above.double()[:, None, None]
        within = 1e-2 if dtype == torch.bfloat16 else 1e-5
        for part, one, other in zip(PARTS, (value, empty, gradient), expected, strict=True):
            yield Comparison(f"{height} x {width} {dtype}: {part}", one, other, 1e-5 if part != "gradient" else within)


def row_kernels(setting: Setting) -> Iterator[Comparison]:
    """`triton_row` and `triton_row_gradients` by themselves."""
    from pipeline.models.rows_triton import triton_row, triton_row_gradients

    generator = setting.generator(3)
    half, bfloat = torch.float16, torch.bfloat16
    sizes = [(1, 2, 70, 12, bfloat, 5), (2, 1, 6, 16, half, 0)]
    if not setting.small:
        sizes += [(8, 6, 197, 64, bfloat, 1), (8, 6, 197, 64, half, 1)]
        sizes += [(3, 2, 2, 4, bfloat, 1), (2, 1, 65, 256, bfloat, 1)]
    for images, heads, tokens, channels, dtype, first in sizes:
        key, above = (spread_keys(images, heads, tokens, channels, dtype, generator) for _ in range(2))
        asking = torch.randn(images, heads, channels, generator=generator)
        row = torch.randn(images, heads, tokens - first, generator=generator)
        exact = key.double()[:, :, first:]
        name = f"{images} x {heads} x {tokens} x {channels} {dtype}"
        there, asked = key.to(setting.device), asking.to(setting.device)
        with poisoned(setting.device):
            found = triton_row(there, asked, first)
        yield Comparison(f"{name}: products", found, torch.einsum("batd,bad->bat", exact, asking.double()), 1e-5)
        into_key = above.to(setting.device).contiguous()
        with poisoned(setting.device):
            into_asking = triton_row_gradients(into_key, there, asked, row.to(setting.device), first)
        joined = above.double().clone()
        joined[:, :, first:] += row.double()[..., None] * asking.double()[:, :, None]
        yield Comparison(f"{name}: into keys", into_key, joined, 2 * torch.finfo(dtype).eps)
        expected = torch.einsum("batd,bat->bad", exact, row.double())
        yield Comparison(f"{name}: into the asking query", into_asking, expected, 1e-5)


FILL = (124, 116, 104)


def augmentation_kernels(setting: Setting) -> Iterator[Comparison]:
    """Crops, RandAugment and masks: the bits of the CPU's kernels. Erased rectangles: normal noise by image alone."""
    from pipeline.data.augment.deit_triton import triton_deit
    from pipeline.data.augment.erase_triton import triton_erase
    from pipeline.data.augment.erasing import DRAWS as ERASING_DRAWS
    from pipeline.data.augment.erasing import draw_rectangles
    from pipeline.data.augment.mask_kernels import shift_masks
    from pipeline.data.augment.mask_triton import mask_places, triton_masks
    from pipeline.data.augment.pixel_kernels import augment_batch
    from pipeline.data.augment.rand_augment import DRAWS, draw_operations
    from pipeline.data.augment.resize_triton import packed

    rng = np.random.default_rng(setting.seed)
    for height, width in [(5, 6)] if setting.small else [(224, 224), (31, 70), (3, 2)]:
        count = 3 if setting.small else 256
        images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        images[::5] //= 16  # dark ones, for what stretches contrast
        masks = rng.integers(0, 2, (count, height, width), dtype=np.uint8)
        changes = draw_operations(rng.random((count, DRAWS)), (height, width), flip=True)
        asked = torch.from_numpy(packed(changes)).to(setting.device)
        places = torch.from_numpy(mask_places(changes, (height, width))).to(setting.device)
        given = torch.from_numpy(images).permute(0, 3, 1, 2).to(setting.device)
        at_first = torch.from_numpy(masks).to(setting.device)
        with poisoned(setting.device):
            found, moved = triton_deit(given, asked, FILL), triton_masks(at_first, asked, places)
        rows = np.arange(count)
        expected = torch.from_numpy(augment_batch(images, rows, changes, np.array(FILL, dtype=np.uint8)))
        # Of 255 levels: a single one in a single pixel is an error.
        yield Comparison(f"{height} x {width}: images", found, expected.permute(0, 3, 1, 2), 1e-9)
        yield Comparison(f"{height} x {width}: masks", moved, torch.from_numpy(shift_masks(masks, rows, changes)), 1e-9)
    side = 24 if setting.small else 224
    rectangles = torch.from_numpy(draw_rectangles(rng.random((8, ERASING_DRAWS)), 1.0, (side, side)))
    given = torch.zeros(8, 3, side, side, device=setting.device)
    erased = triton_erase(given.clone(), rectangles.to(setting.device)).cpu()
    alone = triton_erase(given[:1].clone(), rectangles[5:6].to(setting.device))
    yield Comparison("erasing: an image alone", alone, erased[5:6], 1e-9)
    where = torch.zeros(8, side, side, dtype=torch.float64)
    for mask, (top, left, tall, wide) in zip(where, rectangles[:, :4].long().tolist(), strict=True):
        mask[top : top + tall, left : left + wide] = 1
    yield Comparison("erasing: its place", (erased != 0).any(1), where, 1e-9)
    noise = erased[erased != 0].double()
    # A share of the expected is allowed, so these are not around 0: five standard errors.
    found, expected = torch.stack([noise.mean() + 1, noise.var()]), torch.ones(2, dtype=torch.float64)
    yield Comparison("erasing: mean and variance", found, expected, 5 * (2 / len(noise)) ** 0.5)


def rows_beside_attention(setting: Setting) -> Iterator[Comparison]:
    """Rows read on the way through a fused attention, and the gradient of both by what was projected."""
    generator = setting.generator(4)
    images, tokens, heads, channels = (2, 10, 2, 8) if setting.small else (8, 197, 6, 64)
    for dtype, within in ((torch.float32, 2e-3), (torch.bfloat16, 3e-2)):
        for mean_from in (None, 1):
            projected = torch.randn(images, tokens, 3 * heads * channels, generator=generator).to(dtype)
            above = torch.randn(images, heads, tokens, channels, generator=generator).to(dtype)
            into_row = torch.randn(images, heads, tokens - 1, generator=generator)

            def derived(leaf: Tensor, fused: bool, mean_from: int | None = mean_from) -> tuple[Tensor, Tensor]:
                query, key, value = split_projected(leaf, 3, heads)
                if fused:
                    query, asking = query_passthrough(query, mean_from, channels**-0.5)
                    key, row = key_passthrough(key, asking, 1)
                    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
                else:
                    asking = query[:, :, 0] if mean_from is None else query[:, :, mean_from:].mean(2)
                    row = torch.einsum("bad,batd->bat", asking * channels**-0.5, key[:, :, 1:])
                    mixed = (query @ key.mT * channels**-0.5).softmax(-1) @ value
                given = (above.to(leaf), into_row.to(row))  # noqa: B023
                return row, torch.autograd.grad((mixed, row), leaf, given)[0]

            with poisoned(setting.device):
                found = derived(projected.to(setting.device).requires_grad_(), True)
            expected = derived(projected.double().requires_grad_(), False)
            name = f"{dtype}, {'the CLS' if mean_from is None else 'the mean'} query"
            yield Comparison(f"{name}: row", found[0], expected[0], 1e-5 if dtype == torch.float32 else 1e-2)
            yield Comparison(f"{name}: gradient", found[1], expected[1], within)


def replayed(setting: Setting) -> Iterator[Comparison]:
    """A CUDA graph of value and gradient, replayed on other maps than it was captured with."""
    from pipeline.regularizers.spatial_entropy import entropy_and_empty

    generator = setting.generator(5)
    leaf = torch.randn(200, 14, 14, generator=generator).to(setting.device).requires_grad_()

    def work() -> tuple[Tensor, Tensor, Tensor]:
        value, empty = entropy_and_empty(leaf, threshold=0.2)
        return value.detach(), empty, torch.autograd.grad(value.sum(), leaf)[0]

    with poisoned(setting.device):  # what fills memory is captured too, and replayed before the kernel
        graph, found = captured(work)
    maps = torch.randn(200, 14, 14, generator=generator)
    thresholds = torch.full((200,), 0.2, dtype=torch.float64)
    with torch.no_grad():
        leaf.copy_(maps)
    graph.replay()
    torch.cuda.synchronize()
    kept = clear(maps, thresholds)
    for part, one, other in zip(PARTS, found, entropies(maps, thresholds, 8), strict=True):
        yield Comparison(part, one.cpu()[kept], other[kept], 1e-5)


CHECKS: dict[str, Check] = {
    "entropy kernel": entropy_kernel,
    "entropy through autograd": entropy_in_autograd,
    "entropy in a CUDA graph": replayed,
    "row kernels": row_kernels,
    "augmentation kernels": augmentation_kernels,
    "rows beside attention": rows_beside_attention,
    "optimizers": optimizers,
    "feed": feeds,
    "networks with regularisers": networks,
}
NEED_CUDA = ("entropy in a CUDA graph",)
