"""Steps of small images, which launches bound: the default trial's network, and ViT-Ti at 32 pixels.

Eager; compiled; compiled with CUDA graphs of the network's passes; and the whole step in one CUDA graph, into which a
batch is copied (its learning rate stays what it was when the graph was made).
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from gpu_parts.setting import Report, Setting
from gpu_parts.step import made
from gpu_parts.timing import Work, by_turns, captured
from gpu_parts.training import Case, OurSteps, default_case, made_images
from pipeline.models.model_config import ModelConfig
from pipeline.train.train_config import TrainConfig


def run(setting: Setting, report: Report) -> None:
    default, config, _ = default_case()
    tiny = Case(ModelConfig("vit_tiny_patch16_224", {"patch_size": 4}, "xavier", 0.0), 32, 128, 10, "bfloat16")
    cases = {"the default trial": (default, config)}
    if not setting.small:
        cases["ViT-Ti"] = tiny, replace(config, batch_size=tiny.batch, precision=tiny.precision)
    for number, (name, (case, recipe)) in enumerate(cases.items(), start=1):
        measure(setting, report, f"{name}, {case.side} px", case, recipe, share=number / len(cases))


def measure(setting: Setting, report: Report, kind: str, case: Case, config: TrainConfig, *, share: float) -> None:
    images = made_images(8 * case.batch, case.side, setting.device, seed=setting.seed, classes=case.classes)

    def ours(layers: str | None, compiled: str | None) -> Work:
        return OurSteps(setting, case, config, images, layers=layers, compiled=compiled)

    sides: dict[str, Callable[[], Work]] = {
        "eager, off": lambda: ours(None, None),
        "eager, SAR on the last block": lambda: ours("last", None),
    }
    if setting.small:
        report.note("compiled, and in CUDA graphs: not without a GPU")
    else:
        sides["compiled, SAR on the last block"] = lambda: ours("last", "default")
        sides["compiled, reduce-overhead, SAR on the last block"] = lambda: ours("last", "reduce-overhead")
        sides["one CUDA graph of the step, SAR on the last block"] = lambda: whole_step(
            OurSteps(setting, case, config, images, layers="last")
        )
    found: dict[str, Work] = {}
    for name, make in sides.items():
        try:
            found |= made(setting, report, {name: make})
        except Exception as error:
            if "graph" not in name and "overhead" not in name:
                raise
            # That our step cannot be captured is a finding; the others are still to be measured.
            report.note(f"{kind}: {name}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
    seconds = max(1.0, min(4.0, share * setting.left() / 2))
    calls = 2 if setting.small else 20
    for name, timing in by_turns(found, setting.device, rounds=setting.rounds(9), calls=calls, seconds=seconds).items():
        report.timing(f"{kind}, batches of {case.batch}: {name}", timing)


def whole_step(steps: OurSteps) -> Work:
    """A step as one graph. The optimizer is told to keep its counts on the device, which capturing asks for."""
    for group in steps.optimizer.param_groups:
        group["capturable"] = True
    inputs, labels = steps.inputs.clone(), steps.labels.clone()
    graph, _ = captured(lambda: steps.on(inputs, labels))

    def replay() -> None:
        following = steps.batch()
        with torch.no_grad():
            inputs.copy_(following[0])
            labels.copy_(following[1])
        graph.replay()

    return replay
