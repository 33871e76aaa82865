"""Augmented images a second on the device and on the CPU, and the share of a step that waits for them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gpu_parts.check_training import AUGMENTATIONS
from gpu_parts.setting import Report, Setting
from gpu_parts.timing import Work, by_turns, milliseconds
from gpu_parts.training import OurSteps, made_images, made_jpegs, recipe, vit_s
from pipeline.data.augment.augment import Augmentation
from pipeline.data.batches.batches import ImageBatches

RATES = {
    "none": None,
    "light": Augmentation("light"),
    "light, erasing": Augmentation("light", erasing=0.25),
    "deit": Augmentation("deit"),
    "deit, erasing": Augmentation("deit", erasing=0.25),
}


def run(setting: Setting, report: Report) -> None:
    *others, slow, slow_too = RATES  # whose kernels take long to compile, if this machine has not done it yet
    rates(setting, report, others)
    waits(setting, report)
    from_jpegs(setting, report)
    rates(setting, report, [slow, slow_too])


def rates(setting: Setting, report: Report, names: Sequence[str]) -> None:
    sides = [(32, 24, 8)] if setting.small else [(32, 2048, 256), (224, 512, 256)]
    for side, count, batch in sides:
        for device in dict.fromkeys([setting.device, torch.device("cpu")]):
            images = made_images(count, side, device, seed=setting.seed, classes=10)
            for name in names:
                work = epochs(images, batch, RATES[name])
                try:
                    work()
                except ModuleNotFoundError as error:
                    report.note(f"{name}, on {device.type}: needs {error.name}")
                    continue
                timing = by_turns({"": work}, device, rounds=setting.rounds(5), warm_up=0, seconds=1.0)[""]
                where = "for the device" if device.type == "cuda" else "for the CPU"
                report.rate(f"{side} px, {where}: {name}", timing, count, "images/s")


def epochs(images: ImageBatches, batch: int, augmentation: Augmentation | None) -> Work:
    numbers = iter(range(10**9))

    def epoch() -> None:
        for _ in images.shuffled(batch, seed=0, epoch=next(numbers), augmentation=augmentation):
            pass

    return epoch


def waits(setting: Setting, report: Report) -> None:
    """The step of ViT-S/16, eager, SAR on the last block, with the feed and on a batch that lies there already."""
    case = vit_s(setting)
    images = made_images(2 * case.batch, case.side, setting.device, seed=setting.seed, classes=case.classes)
    plain = recipe(case.batch, case.precision)
    fixed = OurSteps(setting, case, plain, images, layers="last", fixed=True)
    for changes in AUGMENTATIONS:
        name = ", ".join(f"{key} {value}" for key, value in changes.items()) or "no augmentation"
        try:
            fed = OurSteps(setting, case, replace(plain, **changes), images, layers="last")
            timings = by_turns(
                {"fixed": fixed, "fed": fed}, setting.device, rounds=setting.rounds(5), calls=1 if setting.small else 4,
                seconds=2.0,
            )  # fmt: skip
        except ModuleNotFoundError as error:
            report.note(f"a step with {name}: needs {error.name}")
            continue
        pairs = zip(timings["fixed"].times, timings["fed"].times, strict=True)
        report.values(f"{case.model.name} at {case.side}, eager, {name}: share of the step that waits",
                      [100 * (1 - alone / both) for alone, both in pairs], "%")  # fmt: skip


def from_jpegs(setting: Setting, report: Report) -> None:
    """The same step with DeiT's augmentation on images that are decoded, after what was decoded ahead is used up."""
    case = vit_s(setting)
    plain = recipe(case.batch, case.precision)
    few, many = (1, 1) if setting.small else (10, 40)
    with TemporaryDirectory() as folder:
        images = made_jpegs(
            case.batch, case.side, setting.device, Path(folder), seed=setting.seed, classes=case.classes,
            repeats=2 * many + 2,
        )  # fmt: skip
        fixed = OurSteps(setting, case, plain, images, layers="last", fixed=True)
        fixed.close()
        fed = OurSteps(setting, case, replace(plain, augment="deit", erasing=0.25), images, layers="last")
        try:
            for _ in range(many):
                fed()
            both = milliseconds(fed, setting.device, many)
        except ModuleNotFoundError as error:
            report.note(f"a step from JPEGs: needs {error.name}")
            return
        finally:
            fed.close()
        fixed()
        alone = milliseconds(fixed, setting.device, few)
    name = f"{case.model.name} at {case.side}, eager, deit and erasing, from JPEGs"
    report.add(f"{name}: rate", 1000 * case.batch / both, "images/s")
    report.add(f"{name}: share of the rate on a batch that lies there", 100 * alone / both, "%")
