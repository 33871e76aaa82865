"""The table at the end, and the same as JSON. What no GPU gave is said to be of none, in both."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import table

from gpu_parts.processes import Ended
from gpu_parts.setting import Figure, Report

LOG_CHARACTERS = 6000


@dataclass(frozen=True)
class Told:
    """A part that has ended. log: the end of what it said, where it did not go well."""

    name: str
    ended: Ended
    report: Report
    log: str = ""


def told(machine: Mapping[str, Any], parts: Sequence[Told], *, command: str, seconds: float) -> str:
    """All of it as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpu = machine["gpu"]
    device = machine["device"] if gpu is None else (
        f"{gpu['name']}, {gpu['memory_gib']} GiB, {gpu['multiprocessors']} multiprocessors, CUDA {gpu['cuda']}"
    )  # fmt: skip
    lines = [f"# {device}", "", f"{machine['processor']}; Python {machine['python']}, {versions}", ""]
    lines += [f"Command: `{command}`; {seconds:.0f} s. Medians, with least and most of the rounds.", ""]
    rows = [(part.name, _how(part), f"{part.ended.seconds:.0f} s", part.ended.why) for part in parts]
    lines += [table(["part", "", "took", "why"], rows)]
    for part in parts:
        lines += ["", f"## {part.name}", ""]
        unit = "" if gpu else " (CPU)"
        figures = [(each.name, _value(each), each.unit + unit) for each in part.report.figures]
        lines += [table(["", "", "unit"], figures)] if figures else ["nothing"]
        lines += [f"\n**wrong**: {each}" for each in part.report.wrong]
        if part.report.notes:
            lines += ["", f"not measured, or otherwise than one might think: {'; '.join(part.report.notes)}"]
        for name, detail in part.report.detail.items():
            lines += ["", f"{name}:", "", table(detail["columns"], detail["rows"])]
    return "\n".join(lines) + "\n"


def write_results(asked: Namespace, machine: Mapping[str, Any], parts: Sequence[Told], text: str, command: str) -> Path:
    """Both forms under a name of their own for what was asked: a part's figures replace no whole run's."""
    folder = asked.results or Path(__file__).parent.parent / "results"
    folder.mkdir(parents=True, exist_ok=True)
    words = ["gpu", *(["on_cpu"] if machine["gpu"] is None else []), *(["quick"] if asked.quick else [])]
    name = "_".join([*words, *(part.name for part in parts if asked.part)])
    content = {
        "gpu": machine["gpu"],
        "device": machine["device"],
        "machine": dict(machine),
        "command": command,
        "seed": asked.seed,
        "parts": {part.name: _plain(part, machine) for part in parts},
    }
    (folder / f"{name}.md").write_text(text)
    path: Path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _plain(part: Told, machine: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in asdict(part.report).items() if name != "path"}
    measured_on = machine["gpu"]["name"] if machine["gpu"] else "CPU"
    kept = {"status": _how(part), "why": part.ended.why, "seconds": round(part.ended.seconds, 1), "on": measured_on}
    return kept | found | ({"log": part.log[-LOG_CHARACTERS:]} if part.log else {})


def _how(part: Told) -> str:
    return "WRONG" if part.report.wrong else part.ended.how if part.ended.how == "done" else part.ended.how.upper()


def _value(figure: Figure) -> str:
    shown = _shown(figure.value)
    if figure.least is None or figure.most is None or figure.least == figure.most:
        return shown
    return f"{shown} ({_shown(figure.least)}-{_shown(figure.most)})"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
