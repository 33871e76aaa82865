"""Augmented training images a second on one core: pictures one by one, as timm has it, and by the batch.

Run: python benchmarks/batches.py [--folder PREPARED] [--images 6400] [--repetitions 7]

The other side is a DataLoader in the same process (worker processes would share the one core, and pay for sending what
they make) over an array of images, each made a PIL picture and put through the usual transforms. It collates bytes and
normalises and erases by the batch, as timm's own loader does: twice as fast for crop and flip as ToTensor and Normalize
picture by picture, and as fast as torchvision's v2 transforms of tensors collated so. That is its best.

For crop and flip there is a third side, the fastest way that we know with torch alone: no DataLoader, all windows of
the padded set as a view, and a batch by one indexing with each image's own draws; a user can write it in ten lines.
All make standardised float32 batches of all images, shuffled, on one thread bound to one core. Without a folder the
images are made: smooth random fields with some noise, so that they are neither flat nor white noise. Processor time.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import header, keep, table, time_pairs
from numpy.typing import NDArray
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.data.augment.augment import Augmentation
from pipeline.data.batches.batches import ImageBatches, Standardisation, standardisation
from pipeline.data.prepared.prepared import Prepared, open_prepared

BATCH = 128
CROP = "crop, flip, normalise"
Images = NDArray[np.uint8]


class Pictures(Dataset[NDArray[np.uint8]]):
    """As torchvision's CIFAR10 is: an array, and a picture of PIL made of a row for the transforms. Without labels."""

    def __init__(self, images: Images, transform: Callable[[Any], Any]) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Images:
        return np.asarray(self._transform(Image.fromarray(self._images[index])))


@dataclass(frozen=True)
class Collate:
    """Bytes of pictures to a standardised batch, erased where it is asked for."""

    scale: Standardisation
    erasing: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, pictures: list[Images]) -> torch.Tensor:
        batch = normalised(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), self.scale)
        return batch if self.erasing is None else self.erasing(batch)


def normalised(batch: torch.Tensor, scale: Standardisation) -> torch.Tensor:
    mean, std = (255 * torch.tensor(each).view(1, -1, 1, 1) for each in (scale.mean, scale.std))
    return batch.float().sub_(mean).div_(std)


def by_hand(images: Images) -> Callable[[], Iterator[torch.Tensor]]:
    """Epochs of batches, cropped, flipped and normalised with torch alone, by an image's own draws."""
    side, border, scale = images.shape[1], images.shape[1] // 8, standardisation(images)
    padded = torch.nn.functional.pad(torch.from_numpy(images).permute(0, 3, 1, 2), (border,) * 4)
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)

    def epoch() -> Iterator[torch.Tensor]:
        for ids in torch.split(torch.randperm(len(images)), BATCH):
            down, right = torch.randint(0, 2 * border + 1, (2, len(ids)))
            batch = windows[ids, :, down, right]
            flip = torch.rand(len(ids), 1, 1, 1) < 0.5
            yield normalised(torch.where(flip, batch.flip(-1), batch), scale)

    return epoch


def _through(epoch: Callable[[], Iterator[torch.Tensor]]) -> None:
    for _ in epoch():
        pass


def made(count: int, side: int) -> Images:
    """Images (count, side, side, 3) uint8 of neighbouring pixels that are alike, as a photograph's are."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 6, 6)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").permute(0, 2, 3, 1).numpy()
    return np.clip(128 + 45 * smooth + 8 * rng.normal(size=smooth.shape), 0, 255).astype(np.uint8)


def pipelines(images: Images) -> dict[str, tuple[Any, Collate, Augmentation]]:
    """By recipe: the transforms of the other side, what it makes of a batch of them, and our augmentation."""
    scale = standardisation(images)
    side = images.shape[1]
    crop_and_flip = [transforms.RandomCrop(side, padding=side // 8), transforms.RandomHorizontalFlip()]
    resized = _timms(side)
    rand_augment = resized[2]
    light, deit, all_of_it = Augmentation("light"), Augmentation("deit"), Augmentation("deit", erasing=0.25)
    erase: Any = RandomErasing(0.25, mode="pixel", device="cpu")  # type: ignore[no-untyped-call, unused-ignore]
    plain, erasing = Collate(scale), Collate(scale, erase)
    whole = transforms.Compose(resized)
    return {
        CROP: (transforms.Compose(crop_and_flip), plain, light),
        "crop, flip, RandAugment, normalise; ours resizes too": (
            transforms.Compose([*crop_and_flip, rand_augment]),
            plain,
            deit,
        ),
        "resized crop, flip, RandAugment, normalise": (whole, plain, deit),
        "the same, and erasing": (whole, erasing, all_of_it),
    }


def _timms(side: int) -> list[Any]:
    """Resized crop, flip and RandAugment of timm, of pictures."""
    made = transforms_imagenet_train(side, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic")
    for operation in made.transforms[2].ops:
        if operation.name == "PosterizeIncreasing":
            operation.magnitude_max = 9.99  # at 10 timm asks Pillow for colours of 0 bits, which it refuses
    return list(made.transforms[:3])


def measure(
    images: Images,
    theirs: Any,
    collate: Collate,
    ours: Augmentation,
    further: Mapping[str, Callable[[], None]],
    rounds: int,
) -> dict[str, Any]:
    """Images a second of each side, and of the others how many times as long they took, all rounds, sorted."""
    loader = DataLoader(Pictures(images, theirs), BATCH, shuffle=True, collate_fn=collate)
    prepared = Prepared(images, np.zeros(len(images), dtype=np.int64), None, {})
    batches = ImageBatches(prepared, range(len(images)), standardisation(images), torch.device("cpu"))
    epochs = iter(range(10**6))

    def by_the_batch() -> None:
        for _ in batches.shuffled(BATCH, seed=0, epoch=next(epochs), augmentation=ours):
            pass

    def one_by_one() -> None:
        for _ in loader:
            pass

    sides = {"theirs": one_by_one, "ours": by_the_batch, **further}
    timings = time_pairs(sides, repetitions=rounds, clock=time.process_time)
    found: dict[str, Any] = {
        name: sorted(1000 * len(images) / each for each in timing.times) for name, timing in timings.items()
    }
    for name in ("theirs", *further):
        pairs = zip(timings[name].times, timings["ours"].times, strict=True)
        found[f"ratios to {name}"] = sorted(their / our for their, our in pairs)
    return found


def spread(values: list[float], unit: str = "", digits: int = 0) -> str:
    middle, least, most = (f"{each:,.{digits}f}" for each in (statistics.median(values), min(values), max(values)))
    return f"{middle}{unit} ({least}-{most})"


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
    for recipe, (theirs, collate, ours) in pipelines(images).items():
        further = {"by hand": partial(_through, by_hand(images))} if recipe == CROP else {}
        found = measure(images, theirs, collate, ours, further, chosen.repetitions)
        cells = [spread(found["ours"]), spread(found["theirs"]), spread(found["ratios to theirs"], "x")]
        cells += [spread(found["by hand"]), spread(found["ratios to by hand"], "x", 1)] if further else ["", ""]
        rows.append((recipe, *cells))
        kept.append({"recipe": recipe} | {name: round(statistics.median(each), 1) for name, each in found.items()})
    shown = f"{len(images)} images of {images.shape[1]} x {images.shape[2]}"
    print(header("Augmented images a second, one core", ["torch", "torchvision", "timm", "pillow", "numba"]))
    print(f"{shown}, batches of {BATCH}; median (least-most) of {chosen.repetitions} rounds\n")
    print(table(["", "ours", "PIL pictures in a DataLoader", "ratio", "by hand, torch alone", "ratio"], rows))
    keep("batches", kept)


if __name__ == "__main__":
    main()
