"""Claims about the GPU's kernels of DeiT's recipe: in Triton's interpreter they give the bits of the CPU's kernels.

On a GPU itself: the same bits for batches of the size that trains, without a wait of the host.
"""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.triton_interpreter import interpreted

from pipeline.data.augment.augment import Augmentation, EpochAugmenter
from pipeline.data.augment.mask_kernels import shift_masks
from pipeline.data.augment.pixel_kernels import augment_batch
from pipeline.data.augment.rand_augment import DRAWS, OPERATIONS, Operations, draw_operations

pytest.importorskip("triton", reason="triton comes with torch on Linux alone")

DEIT = "pipeline.data.augment.deit_triton:triton_deit"
MASKS = "pipeline.data.augment.mask_triton:triton_masks"
WIRED = "augmented_by_kernels:augmented"
FILL = (124, 7, 250)
COUNT = len(OPERATIONS)

Pixels = NDArray[np.uint8]


def pictures(count: int, height: int, width: int, channels: int) -> Pixels:
    """Noise, and what is nasty: constant, white, two levels, one bright pixel, a ramp, dark noise."""
    rng = np.random.default_rng(height * 1000 + width)
    made = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    made[1::9], made[2::9] = 77, 255
    made[3::9] = rng.choice(np.array([0, 255], dtype=np.uint8), made[3::9].shape)
    made[4::9] = 0
    made[4::9, height // 2, width // 2] = 255
    made[5::9] = np.linspace(0, 255, width).astype(np.uint8)[:, None]
    made[6::9] = rng.integers(3, 9, made[6::9].shape)
    return made


def drawn(sides: tuple[int, int], seed: int = 0) -> Operations:
    """Crops as they are drawn, some of them whole; every operation once in the first layer and once in the second."""
    draws = np.random.default_rng(seed).random((COUNT, DRAWS))
    draws[:, -7] = draws[:, -3] = 0.0
    draws[:, -8] = (np.arange(COUNT) + 0.5) / COUNT
    draws[:, -4] = ((np.arange(COUNT) * 7 + 3) % COUNT + 0.5) / COUNT
    changes = draw_operations(draws, sides, flip=True)
    assert set(changes.operations[:, 0]) == set(changes.operations[:, 1]) == set(range(COUNT))
    changes.boxes[::4] = 0, 0, *sides
    changes.operations[3, 1] = changes.operations[4, 0] = -1
    return changes


def extreme(sides: tuple[int, int]) -> Operations:
    """Matrices and factors beyond those that are drawn: far away, onto one place, quarter turns, whole and half steps."""
    height, width = sides
    affine = [
        (1, 0, 1e12, 0, 1, 0), (1, 0, -1e12, 0, 1, 1e300), (0, 0, 1.5, 0, 0, 2.25), (0, -1, height, 1, 0, 0),
        (-1, 0, width, 0, -1, height), (1, 0, 1, 0, 1, -2), (1, 0, 0.5, 0, 1, 0.5), (1e-9, 0, 0, 0, 1e9, 0),
    ]  # fmt: skip
    others = [
        (4, 8),
        (4, 1),
        (5, 0),
        (5, 256),
        (6, 128),
        (7, 0),
        (7, 1),
        (8, 0.1),
        (8, 1.9),
        (9, 1.9),
        (10, 0),
        (10, 1.9),
    ]
    numbers = [3] * len(affine) + [number for number, _ in others]
    values = np.zeros((len(numbers), 2, 6))
    values[: len(affine), 0] = affine
    values[len(affine) :, 0, 0] = [value for _, value in others]
    operations = np.stack([numbers, [-1] * len(numbers)], axis=1)
    boxes = np.broadcast_to(np.array([0, 0, *sides]), (len(numbers), 4)).copy()
    return Operations(boxes, np.arange(len(numbers)) % 2 == 0, operations, values)


def case(images: Pixels, changes: Operations, fill: tuple[int, ...] = FILL) -> dict[str, Any]:
    from pipeline.data.augment.resize_triton import packed

    given = torch.from_numpy(images).permute(0, 3, 1, 2)
    return {"images": given, "asked": torch.from_numpy(packed(changes)), "fill": fill}


def check(given: list[tuple[Pixels, Operations]], folder: Path) -> None:
    fills = [FILL if images.shape[-1] == 3 else (9, 9, 9) for images, _ in given]
    cases = [case(*each, fill) for each, fill in zip(given, fills, strict=True)]
    for (images, changes), fill, found in zip(given, fills, interpreted(cases, folder, DEIT), strict=True):
        expected = augment_batch(images, np.arange(len(images)), changes, np.array(fill, dtype=np.uint8))
        ours = found.permute(0, 2, 3, 1).numpy()
        wrong = [
            changes.operations[place].tolist() for place in range(len(images)) if (ours[place] != expected[place]).any()
        ]
        assert wrong == [], images.shape


def test_kernels_give_the_bits_of_the_cpus(tmp_path: Path) -> None:
    sizes = [((7, 11), 3), ((2, 3), 1)]
    check([(pictures(COUNT, *sides, channels), drawn(sides)) for sides, channels in sizes], tmp_path)


@pytest.mark.slow
def test_kernels_give_the_bits_of_the_cpus_for_matrices_and_factors_beyond_those_that_are_drawn(tmp_path: Path) -> None:
    changes = extreme((6, 9))
    check([(pictures(len(changes.boxes), 6, 9, channels), changes) for channels in (1, 3)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_kernels_give_the_bits_of_the_cpus_whatever_the_sides(channels: int, tmp_path: Path) -> None:
    every = [(32, 32), (17, 70), (3, 3), (1, 9), (9, 1), (1, 1), (2, 2)]
    check([(pictures(COUNT, *sides, channels), drawn(sides, seed=sum(sides))) for sides in every], tmp_path)


def test_masks_are_moved_as_by_the_cpu(tmp_path: Path) -> None:
    from pipeline.data.augment.mask_triton import mask_places
    from pipeline.data.augment.resize_triton import packed

    cases, expected = [], []
    for sides in ((7, 11), (1, 3), (30, 23)):
        for changes in (drawn(sides), extreme(sides)):
            masks = np.random.default_rng(1).integers(0, 2, (len(changes.boxes), *sides)).astype(np.uint8)
            expected.append(shift_masks(masks, np.arange(len(masks)), changes))
            given = masks, packed(changes), mask_places(changes, sides)
            cases.append(dict(zip(("masks", "asked", "places"), map(torch.from_numpy, given), strict=True)))
    for found, by_cpu in zip(interpreted(cases, tmp_path, MASKS), expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), by_cpu)


@pytest.mark.slow
def test_epochs_are_those_of_the_cpu_and_erasing_depends_on_the_image_alone(tmp_path: Path) -> None:
    images = torch.from_numpy(pictures(4, 6, 5, 3)).permute(0, 3, 1, 2).contiguous()
    masks = torch.randint(0, 2, (4, 6, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    whole = {"images": images, "masks": masks, "ids": [7, 2, 99, 40], "kernels": True, "kind": "deit", "erasing": 0.7}
    alone = whole | {"images": images[2:3], "masks": masks[2:3], "ids": [99]}
    by_kernels, again, by_cpu = interpreted([whole, alone, whole | {"kernels": False}], tmp_path, WIRED)
    assert (by_kernels[0], by_cpu[0]) == (False, True)
    for ours, cpus in zip(by_kernels[1:3], by_cpu[1:3], strict=True):
        assert torch.equal(ours, cpus)
    for part, same in zip(by_kernels[1:], again[1:], strict=True):
        assert torch.equal(part[2:3], same)
    # The same images are erased, and no two with the same noise.
    changed = [[bool(image.any()) for image in found[3]] for found in (by_kernels, by_cpu)]
    assert changed[0] == changed[1]
    assert sum(changed[0]) > 1
    noise = by_kernels[3][by_kernels[3] != 0]
    assert len(noise.unique()) == len(noise)


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_kernels_compile_for_cuda_without_fused_products_nor_atomics_on_shared_results(capability: int) -> None:
    """A fused product would be rounded otherwise than on the CPU. Counts in a program's own memory are whole numbers."""
    script = f"""
        import re, triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from pipeline.data.augment import deit_triton as kernels, erase_triton, mask_triton, resize_triton

        byte, number, real = "*u8", "i32", "*fp64"
        kinds = dict.fromkeys(("images", "between", "here", "masks", "tables", "out"), byte)
        kinds |= dict.fromkeys(("weights", "means", "places"), "*i32") | dict(asked=real, rectangles=real)
        tile = dict(row_block=resize_triton.ROWS, column_block=resize_triton.COLUMNS)
        span = dict(edge=kernels.EDGE, middle=kernels.MIDDLE, block=kernels.PIXELS)
        for function, chosen in (
            (resize_triton._weigh, dict(block=resize_triton.WEIGHED)),
            (resize_triton._resize_across, tile),
            (resize_triton._resize_down, tile),
            (kernels._read_whole, dict(block=kernels.COUNTED)),
            (kernels._operate, span),
            (mask_triton._move_masks, dict(layers=2, undecided=255, block=kernels.PIXELS)),
            (erase_triton._erase, dict(block=erase_triton.PIXELS)),
        ):
            exact = function is not erase_triton._erase
            if "channels" in function.arg_names:
                chosen = chosen | dict(channels=3)
            given = kinds if exact else kinds | dict(images="*fp32")
            kind = {{name: "constexpr" if name in chosen else given.get(name, number) for name in function.arg_names}}
            target, options = GPUTarget("cuda", {capability}, 32), resize_triton.EXACT if exact else {{}}
            ptx = triton.compile(ASTSource(function, kind, constexprs=chosen), target=target, options=options).asm["ptx"]
            assert not (exact and re.search(r"\\bfma\\.", ptx)), function
            assert not re.search(r"\\b(atom|red)\\.(?!\\S*shared\\S*add\\.u32)", ptx), function
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)


# On a GPU.


def by_device(device: str, channels: int, sides: tuple[int, int], augmentation: Augmentation) -> torch.Tensor:
    images = torch.from_numpy(pictures(64, *sides, channels)).permute(0, 3, 1, 2).contiguous().to(device)
    augmenter = EpochAugmenter(augmentation, (0.4,) * channels, images=64, seed=3, epoch=5)
    return augmenter.change(images, np.arange(64))


@pytest.mark.gpu
@pytest.mark.parametrize("sides", [(224, 224), (65, 130), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_gpu_gives_the_bits_of_the_cpu(channels: int, sides: tuple[int, int]) -> None:
    deit = Augmentation("deit")
    assert torch.equal(by_device("cuda", channels, sides, deit).cpu(), by_device("cpu", channels, sides, deit))
    changes = extreme(sides)
    images = pictures(len(changes.boxes), *sides, channels)
    from pipeline.data.augment.deit_triton import triton_deit

    given = case(images, changes, (9, 9, 9))
    found = triton_deit(given["images"].cuda(), given["asked"].cuda(), (9, 9, 9)).permute(0, 2, 3, 1)
    expected = augment_batch(images, np.arange(len(images)), changes, np.full(3, 9, dtype=np.uint8))
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


@pytest.mark.gpu
def test_gpu_moves_masks_as_the_cpu() -> None:
    masks = np.random.default_rng(1).integers(0, 2, (64, 65, 130)).astype(np.uint8)
    augmenter = EpochAugmenter(Augmentation("deit"), (0.4,) * 3, images=64, seed=3, epoch=5)
    found = (augmenter.moved_masks(masks, np.arange(64), torch.device(name)).cpu() for name in ("cuda", "cpu"))
    assert torch.equal(*found)


@pytest.mark.gpu
def test_gpu_does_not_make_the_host_wait() -> None:
    images = torch.from_numpy(pictures(64, 32, 32, 3)).permute(0, 3, 1, 2).contiguous().cuda()
    masks = np.zeros((64, 32, 32), dtype=np.uint8)

    def work(kind: str) -> None:
        augmenter = EpochAugmenter(Augmentation(kind, erasing=0.5), (0.4,) * 3, images=64, seed=3, epoch=5)
        augmenter.erase(augmenter.change(images, np.arange(64)).float(), np.arange(64))
        augmenter.moved_masks(masks, np.arange(64), images.device)

    for kind in ("deit", "light"):
        work(kind)
        torch.cuda.set_sync_debug_mode("error")
        try:
            work(kind)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_gpu_erases_an_image_alone_as_in_a_batch() -> None:
    augmenter = EpochAugmenter(Augmentation(erasing=1.0), (0.4,) * 3, images=64, seed=3, epoch=5)
    whole = augmenter.erase(torch.zeros(64, 3, 224, 224, device="cuda"), np.arange(64))
    alone = augmenter.erase(torch.zeros(1, 3, 224, 224, device="cuda"), np.arange(9, 10))
    assert torch.equal(whole[9:10], alone)
    noise = whole[whole != 0].double()
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1.0) < 0.01
