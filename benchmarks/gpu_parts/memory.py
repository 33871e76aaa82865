"""The most device memory that a step takes: no regulariser, SAR on the last block, on all blocks; eager."""

import gc

import torch

from gpu_parts.setting import Report, Setting
from gpu_parts.step import LAYERS
from gpu_parts.timing import wait
from gpu_parts.training import Case, OurSteps, fitting, made_images, recipe, vit_s


def run(setting: Setting, report: Report) -> None:
    fitting(vit_s(setting), lambda case: measure(setting, report, case), report)


def measure(setting: Setting, report: Report, case: Case) -> None:
    images = made_images(case.batch, case.side, setting.device, seed=setting.seed, classes=case.classes)
    kind = f"{case.model.name} at {case.side}, {case.precision}, batches of {case.batch}, eager"
    peaks: dict[str, float] = {}
    for name, layers in LAYERS.items():
        steps = OurSteps(setting, case, recipe(case.batch, case.precision), images, layers=layers)
        for _ in range(1 if setting.small else 3):  # until the optimizer has its state
            steps()
        wait(setting.device)
        if setting.small:
            continue
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps()
        wait(setting.device)
        peaks[name] = torch.cuda.max_memory_allocated() / 2**20
        report.add(f"{kind}: {name}, peak", peaks[name], "MiB")
        report.add(f"{kind}: {name}, of which before the step", before / 2**20, "MiB")
        del steps
        gc.collect()  # a network and its taps refer to each other
        torch.cuda.empty_cache()
    if setting.small:
        report.note("device memory: there is no device; the steps were only tried")
    for name in list(peaks)[1:]:
        report.add(f"{kind}: {name}, more than off", peaks[name] - peaks["off"], "MiB")
