"""What `pipeline.tune.selection.health` finds of a search, in words and as summary.json has it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

ALARM, REMARK, UNKNOWN = "alarm", "remark", "unknown"


@dataclass(frozen=True)
class Finding:
    """name: one of the list in `pipeline.tune.selection.health`. seen: a sentence with figures. advice: what to do, in
    a sentence; empty where there is nothing to do. kind: `alarm`, `remark`, or `unknown`: what could not be examined,
    as part of a sentence.
    """

    name: str
    seen: str
    advice: str = ""
    kind: str = ALARM


def as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """What summary.json has of them."""
    return [asdict(finding) for finding in findings]


def describe_findings(findings: Sequence[Mapping[str, str]] | None) -> list[str]:
    """What `as_json` gives, in lines: one each for alarms and remarks, one for all that could not be examined.

    findings: None of a search that nobody has looked at, of which nothing is said.
    """
    if findings is None:
        return []
    lines = [f"{found['seen']} {found['advice']}".strip() for found in findings if found["kind"] != UNKNOWN]
    if not any(found["kind"] == ALARM for found in findings):
        lines.insert(0, "Nothing was found that speaks against this search.")
    if unknown := [found["seen"] for found in findings if found["kind"] == UNKNOWN]:
        lines.append(f"Not examined: {'; '.join(unknown)}.")
    return lines
