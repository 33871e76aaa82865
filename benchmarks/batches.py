"""Augmented training images a second on one core: torchvision's and timm's pictures one by one, and ours by the batch.

Run: python benchmarks/batches.py [--folder PREPARED] [--images 6400] [--repetitions 7]

The other side is a DataLoader in the same process (worker processes would share the one core, and pay for sending what
they make) over an array of images, each made a PIL picture and put through the usual transforms. Both sides make
standardised float32 batches of all images, shuffled, on one thread bound to one core. Without a folder the images are
made: smooth random fields with some noise, so that they are neither flat nor white noise.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import header, keep, table, time_pairs
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_train
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.data.augment import Augmentation
from pipeline.data.batches import ImageBatches, Standardisation, standardisation
from pipeline.data.store import Prepared, open_prepared

BATCH = 128
Images = NDArray[np.uint8]


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's CIFAR10 is: an array, and a picture of PIL made of a row for the transforms."""

    def __init__(self, images: Images, transform: Callable[[Any], torch.Tensor]) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), 0


def made(count: int, side: int) -> Images:
    """Images (count, side, side, 3) uint8 of neighbouring pixels that are alike, as a photograph's are."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 6, 6)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").permute(0, 2, 3, 1).numpy()
    return np.clip(128 + 45 * smooth + 8 * rng.normal(size=smooth.shape), 0, 255).astype(np.uint8)


def pipelines(images: Images) -> dict[str, tuple[Any, Augmentation]]:
    """By recipe: the transforms of the other side, and our augmentation."""
    scale = standardisation(images)
    side = images.shape[1]
    end = [transforms.ToTensor(), transforms.Normalize(scale.mean, scale.std)]
    crop_and_flip = [transforms.RandomCrop(side, padding=side // 8), transforms.RandomHorizontalFlip()]
    whole, erased = (_timms(side, scale, erasing) for erasing in (0.0, 0.25))
    rand_augment = whole.transforms[2]
    light, deit, all_of_it = Augmentation("light"), Augmentation("deit"), Augmentation("deit", erasing=0.25)
    return {
        "crop, flip, normalise": (transforms.Compose([*crop_and_flip, *end]), light),
        "crop, flip, RandAugment, normalise; ours resizes too": (
            transforms.Compose([*crop_and_flip, rand_augment, *end]),
            deit,
        ),
        "resized crop, flip, RandAugment, normalise": (whole, deit),
        "the same, and erasing": (erased, all_of_it),
    }


def _timms(side: int, scale: Standardisation, erasing: float) -> Any:
    made = transforms_imagenet_train(
        side,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        mean=scale.mean,
        std=scale.std,
        re_prob=erasing,
        re_mode="pixel",
    )
    for operation in made.transforms[2].ops:
        if operation.name == "PosterizeIncreasing":
            operation.magnitude_max = 9.99  # at 10 timm asks Pillow for colours of 0 bits, which it refuses
    return made


def measure(images: Images, theirs: Any, ours: Augmentation, repetitions: int) -> dict[str, Any]:
    """Images a second of both sides, and the ratio: medians with least and most, the ratio's of the rounds' ratios."""
    loader = DataLoader(Pictures(images, theirs), BATCH, shuffle=True)
    prepared = Prepared(images, np.zeros(len(images), dtype=np.int64), None, {})
    batches = ImageBatches(prepared, range(len(images)), standardisation(images), torch.device("cpu"))
    epochs = iter(range(10**6))

    def by_the_batch() -> None:
        for _ in batches.shuffled(BATCH, seed=0, epoch=next(epochs), augmentation=ours):
            pass

    def one_by_one() -> None:
        for _ in loader:
            pass

    timings = time_pairs({"theirs": one_by_one, "ours": by_the_batch}, repetitions=repetitions)
    rates = {name: sorted(1000 * len(images) / each for each in timing.times) for name, timing in timings.items()}
    pairs = zip(timings["theirs"].times, timings["ours"].times, strict=True)
    return rates | {"ratios": sorted(their / our for their, our in pairs)}


def spread(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):,.0f}{unit} ({min(values):,.0f}-{max(values):,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="a prepared array set of 3 channels, as data/prepared is")
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if chosen.folder is None:
        images = made(chosen.images, chosen.side)
    else:
        images = np.asarray(open_prepared(chosen.folder).images[: chosen.images])
    rows, kept = [], []
    for recipe, (theirs, ours) in pipelines(images).items():
        found = measure(images, theirs, ours, chosen.repetitions)
        rows.append((recipe, spread(found["ours"]), spread(found["theirs"]), spread(found["ratios"], "x")))
        kept.append({"recipe": recipe} | {name: round(statistics.median(each), 1) for name, each in found.items()})
    shown = f"{len(images)} images of {images.shape[1]} x {images.shape[2]}"
    print(header("Augmented images a second, one core", ["torch", "torchvision", "timm", "pillow", "numba"]))
    print(f"{shown}, batches of {BATCH}; median (least-most) of {chosen.repetitions} rounds\n")
    print(table(["", "ours", "PIL pictures in a DataLoader", "ratio"], rows))
    keep("batches", kept)


if __name__ == "__main__":
    main()
