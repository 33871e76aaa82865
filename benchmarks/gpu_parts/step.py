"""A whole training step, images a second: without SAR, with it on the last block, on all; also compiled; timm's."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

from gpu_parts.setting import Report, Setting
from gpu_parts.timing import Work, by_turns, wait
from gpu_parts.training import Case, OurSteps, fitting, graphs_and_breaks, made_images, recipe, timms_steps, vit_s

BATCHES = 3
"""Different ones that the images on the device make."""

LAYERS: Mapping[str, str | None] = {"off": None, "SAR on the last block": "last", "SAR on all blocks": "all"}


def run(setting: Setting, report: Report) -> None:
    fitting(vit_s(setting), lambda case: measure(setting, report, case), report)


def measure(setting: Setting, report: Report, case: Case) -> None:
    config = recipe(case.batch, case.precision)
    images = made_images(BATCHES * case.batch, case.side, setting.device, seed=setting.seed, classes=case.classes)
    kind = f"{case.model.name} at {case.side}, {case.precision}, batches of {case.batch}"

    def ours(layers: str | None, compiled: str | None = "reduce-overhead") -> Work:
        return OurSteps(setting, case, config, images, layers=layers, compiled=compiled)

    eager: dict[str, Callable[[], Work]] = {name: partial(ours, at, None) for name, at in LAYERS.items()}
    eager["timm without our loop"] = lambda: timms_steps(setting, case, config, compiled=False)
    tell(setting, report, f"{kind}, eager", case, made(setting, report, eager))
    # In the order of worth: each takes half a minute to compile, and time may end.
    compiled: dict[str, Callable[[], Work]] = {
        "off": lambda: ours(None),
        "SAR on all blocks": lambda: ours("all"),
        "timm without our loop": lambda: timms_steps(setting, case, config, compiled=True),
        "SAR on the last block": lambda: ours("last"),
        "off, without CUDA graphs": lambda: ours(None, "default"),
    }
    if setting.small:
        compiled = dict(list(compiled.items())[1:2])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    sides = made(setting, report, compiled)
    graphs, breaks = graphs_and_breaks()
    report.add(f"graphs compiled, for {len(sides)} networks", graphs, "graphs")
    report.add("places where a graph broke", breaks, "breaks")
    tell(setting, report, f"{kind}, compiled", case, sides)


def made(setting: Setting, report: Report, sides: Mapping[str, Callable[[], Work]]) -> dict[str, Work]:
    """Every side after its first steps; those that time does not suffice for are left out, and noted."""
    found: dict[str, Work] = {}
    longest = 0.0
    for name, make in sides.items():
        if found and setting.left() < 1.3 * longest + 8:
            report.note(f"no time left to compile {name}")
            continue
        begun = time.monotonic()
        work = make()
        for _ in range(1 if setting.small else 4):  # CUDA graphs are recorded in the second step
            work()
        wait(setting.device)
        longest = max(longest, time.monotonic() - begun)
        found[name] = work
    return found


def tell(setting: Setting, report: Report, kind: str, case: Case, sides: Mapping[str, Work]) -> None:
    """Measure the sides by turns: images a second of each, and what share of `off` that is."""
    if not sides:
        return
    calls = 1 if setting.small else 5 if setting.quick else 8
    seconds = max(1.0, min(12.0, setting.left() - 6))
    timings = by_turns(sides, setting.device, rounds=setting.rounds(7), warm_up=1, calls=calls, seconds=seconds)
    for name, timing in timings.items():
        report.rate(f"{kind}: {name}", timing, case.batch, "images/s")
    for name, timing in timings.items():
        if name != "off" and "off" in timings:
            shares = [off / mine for off, mine in zip(timings["off"].times, timing.times, strict=True)]
            report.values(f"{kind}: {name}, of off", shares, "of off")
