"""What `pipeline.tune.selection.health` finds of a search, in words."""

from collections.abc import Sequence

from pipeline.artifacts.search_result import ALARM, UNKNOWN, Finding


def describe_findings(findings: Sequence[Finding] | None) -> list[str]:
    """A line each for alarms and remarks, one for all that could not be examined.

    findings: None of a search that nobody has looked at, of which nothing is said.
    """
    if findings is None:
        return []
    lines = [f"{found.seen} {found.advice}".strip() for found in findings if found.kind != UNKNOWN]
    if not any(found.kind == ALARM for found in findings):
        lines.insert(0, "Nothing was found that speaks against this search.")
    if unknown := [found.seen for found in findings if found.kind == UNKNOWN]:
        lines.append(f"Not examined: {'; '.join(unknown)}.")
    return lines
