"""Claims about batches on a CPU: one pass gives the bits that torch gives, threads change nothing, and memory is shared."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shared_memory
import torch

from pipeline.data.augment.augment import Augmentation, EpochAugmenter
from pipeline.data.batches.batches import ImageBatches, Standardisation, standardisation
from pipeline.data.batches.image_store import ImageStore
from pipeline.data.prepared.prepared import Prepared

CPU = torch.device("cpu")


def batches(images: Any, *, ids: Any = None) -> ImageBatches:
    channels = images.shape[3]
    scale = Standardisation(tuple(0.1 * each for each in range(1, channels + 1)), (0.23,) * channels)
    prepared = Prepared(images, np.arange(len(images), dtype=np.int64), None, {})
    return ImageBatches(prepared, range(len(images)) if ids is None else ids, scale, CPU)


def noise(count: int, height: int, width: int, channels: int) -> Any:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


SHAPES = [(32, 32, 3), (12, 12, 1), (9, 20, 4), (1, 1, 3), (1, 7, 2), (2, 1, 1)]


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_pass_gives_the_bits_of_torchs_shift_and_standardisation(shape: tuple[int, int, int], flip: bool) -> None:
    images = noise(40, *shape)
    ids = np.array([7, 39, 0, 22, 5, 18])
    ours = batches(images, ids=ids)
    augmentation = Augmentation("light", flip)
    drawn = ours.shuffled(4, seed=5, epoch=6, augmentation=augmentation)
    found = {int(label): image for inputs, labels in drawn for image, label in zip(inputs, labels, strict=True)}
    augmenter = EpochAugmenter(augmentation, (0.5,), images=40, seed=5, epoch=6)
    pixels = augmenter.change(torch.from_numpy(images[ids]).permute(0, 3, 1, 2).contiguous(), ids)
    mean = torch.tensor([0.1 * each for each in range(1, shape[2] + 1)]).view(1, -1, 1, 1)
    for name, image in zip(ids.tolist(), pixels.float().div_(255.0).sub_(mean).div_(0.23), strict=True):
        assert torch.equal(found[name], image)
        assert found[name].is_contiguous()


def test_threads_change_no_bit() -> None:
    ours = batches(noise(50, 12, 12, 3))
    before = torch.get_num_threads()
    made = {}
    try:
        for threads in (1, 3, 64):
            torch.set_num_threads(threads)
            made[threads] = list(ours.shuffled(33, seed=0, epoch=1, augmentation=Augmentation("light")))
    finally:
        torch.set_num_threads(before)
    for threads in (3, 64):
        for (one, _), (other, _) in zip(made[1], made[threads], strict=True):
            assert torch.equal(one, other)


def test_memory_maps_give_what_arrays_give_and_are_not_read_before_their_batch(tmp_path: Path) -> None:
    images = noise(30, 8, 8, 3)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    asked = []

    class Watched(np.ndarray):  # type: ignore[type-arg]
        def __getitem__(self, rows: Any) -> Any:
            asked.append(len(np.arange(len(self))[rows]))
            return np.asarray(super().__getitem__(rows))

    ours, theirs, watched = batches(mapped), batches(images), batches(images.view(Watched))
    for augmentation in (None, Augmentation("light")):
        for one, other in zip(*(each.shuffled(7, seed=0, epoch=0, augmentation=augmentation) for each in (ours, theirs)), strict=True):  # fmt: skip
            assert torch.equal(one[0], other[0])
    assert asked == []
    next(watched.in_order(4))
    assert asked == [4]


def test_standardisation_takes_the_moments_of_the_ids_alone_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(30, 5, 4, 2)
    images[20:] //= 4
    ids = np.array([3, 25, 8, 29, 4])
    expected = standardisation(images[ids])
    monkeypatch.setattr("pipeline.data.batches.image_store.BLOCK_BYTES", 2 * 5 * 4 * 2)
    assert standardisation(images, ids) == expected
    assert expected != standardisation(images)


def test_set_is_held_in_gpu_memory_only_where_it_takes_a_small_share(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(10, 4, 4, 1)
    held = []
    monkeypatch.setattr(ImageStore, "_copied", lambda self: held.append(len(self._ids)))
    for free in (5 * 16 * 10, 5 * 16 * 10 - 6):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10**9))
        ImageStore(images, np.arange(10), torch.device("cuda"))
    ImageStore(images, np.arange(10), CPU)
    assert held == [10]


def test_numba_is_imported_by_who_augments_and_by_nobody_else() -> None:
    script = "import sys, pipeline.assembly, pipeline.train.loader; assert 'numba' not in sys.modules; import pipeline.data.augment.crop_kernels; assert 'numba' in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_kernels_are_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    from pipeline.compute.compiled import compile_kernel

    plain, asked = numba.njit, []

    def nowhere(*given: Any, **options: Any) -> Any:
        if given:  # numba's own, which it makes when it first compiles
            return plain(*given, **options)
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return plain(**options)

    monkeypatch.setattr(numba, "njit", nowhere)

    def double(value: int) -> int:
        return 2 * value

    assert compile_kernel(double)(21) == 42
    assert [options.get("cache", False) for options in asked] == [True, False]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
def test_two_trials_share_one_copy_of_the_prepared_arrays(tmp_path: Path) -> None:
    shared_memory.write(tmp_path / "images.npy", 200)
    together = sum(shared_memory.grown(tmp_path / "images.npy", copy=False)) / 2**20
    # A copy in each takes three times the set. What else a process grows by depends on the machine's other work.
    assert together < 1.75 * 200
    assert together > 0.5 * 200  # or nothing was read
