"""Where a step's time goes: the kernels that take most of it, the device's idle share, the launches."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile

from gpu_parts.setting import Report, Setting
from gpu_parts.timing import wait
from gpu_parts.training import Case, OurSteps, fitting, made_images, recipe, vit_s

STEPS = 5
TOP = 15
COMPILING_S = 15.0
"""A step that another part has compiled is compiled anew in about this time, from what is kept on the disk."""

MARKS = ("ProfilerStep", "Optimizer.", "Torch-Compiled", "## Call", "CompiledF")
"""How marks of Python's and the compiler's begin, which stand among the kernels and span many of them."""


@dataclass(frozen=True)
class Span:
    """What ran on a device (or, of a CPU, an operation), in microseconds."""

    name: str
    begin: float
    end: float


def run(setting: Setting, report: Report) -> None:
    fitting(vit_s(setting), lambda case: measure(setting, report, case), report)


def measure(setting: Setting, report: Report, case: Case) -> None:
    config = recipe(case.batch, case.precision)
    images = made_images(3 * case.batch, case.side, setting.device, seed=setting.seed, classes=case.classes)
    ways: dict[str, str | None] = {"eager": None}
    if not (setting.small or setting.quick):
        ways["compiled"] = "default"
    for way, compiled in ways.items():
        if compiled and setting.left() < COMPILING_S:
            report.note(f"{way}: no time left to compile it")
            continue
        steps = OurSteps(setting, case, config, images, layers="all", compiled=compiled)
        for _ in range(1 if setting.small else 4):
            steps()
        wait(setting.device)
        count = 1 if setting.small else STEPS
        activities = [ProfilerActivity.CPU]
        if setting.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities, acc_events=True) as profiler:
            for _ in range(count):
                steps()
            wait(setting.device)
        events = list(profiler.events() or ())
        tell(report, f"{way}, SAR on all blocks", events, count, on_cuda=setting.device.type == "cuda")


def tell(report: Report, kind: str, events: Sequence[Any], steps: int, *, on_cuda: bool) -> None:
    """Totals a step, and the longest kernels (of a CPU: operations, by the time that is their own)."""
    spans = device_spans(events)
    if on_cuda and not spans:
        report.note(f"{kind}: the profiler saw no kernel")
        return
    if not on_cuda:
        report.note(f"{kind}: no kernels without a GPU; operations of the CPU, whose times say nothing")
        own: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if not str(event.name).startswith(MARKS):
                own[event.name].append(event.self_cpu_time_total)
        keep_top(report, kind, own, steps)
        return
    busy, gaps = busy_and_gaps(spans)
    whole = busy + sum(gaps)
    launches = sum("Launch" in str(each.name) and str(each.name).startswith("cu") for each in events)
    report.add(f"{kind}: from the first kernel to the last, a step", whole / steps / 1000, "ms")
    report.add(f"{kind}: device idle", 100 * sum(gaps) / whole, "%")
    report.add(f"{kind}: longest gap", max(gaps, default=0.0), "us")
    report.add(f"{kind}: gaps of more than 5 us, a step", sum(gap > 5 for gap in gaps) / steps, "gaps")
    report.add(f"{kind}: kernels and copies, a step", len(spans) / steps, "kernels")
    report.add(f"{kind}: launches by the host, a step", launches / steps, "launches")
    by_name: dict[str, list[float]] = defaultdict(list)
    for span in spans:
        by_name[span.name].append(span.end - span.begin)
    keep_top(report, kind, by_name, steps)


def device_spans(events: Iterable[Any]) -> list[Span]:
    """Kernels and copies on CUDA devices, in the order of their beginning, without marks."""
    found = []
    for event in events:
        on_device = getattr(event.device_type, "name", "") == "CUDA"
        marked = getattr(event, "is_user_annotation", False) or str(event.name).startswith(MARKS)
        if on_device and not marked:
            found.append(Span(str(event.name), float(event.time_range.start), float(event.time_range.end)))
    return sorted(found, key=lambda span: span.begin)


def busy_and_gaps(spans: Sequence[Span]) -> tuple[float, list[float]]:
    """Microseconds in which anything ran, and the gaps between; of spans in the order of their beginning."""
    busy, gaps, until = 0.0, [], spans[0].begin
    for span in spans:
        if span.begin > until:
            gaps.append(span.begin - until)
        busy += max(0.0, span.end - max(span.begin, until))
        until = max(until, span.end)
    return busy, gaps


def keep_top(report: Report, kind: str, times: dict[str, list[float]], steps: int) -> None:
    total = sum(map(sum, times.values())) or 1.0
    longest = sorted(times.items(), key=lambda each: -sum(each[1]))[:TOP]
    rows = [
        (
            name[:110].replace("|", "/"),
            f"{sum(each) / steps:.1f}",
            f"{100 * sum(each) / total:.1f} %",
            f"{len(each) / steps:g}",
        )
        for name, each in longest
    ]
    report.keep(f"{kind}: where the time goes", {"columns": ["", "us a step", "share", "times a step"], "rows": rows})
