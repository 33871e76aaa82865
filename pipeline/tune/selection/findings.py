"""Wording of the findings of `pipeline.tune.selection.health`."""

from collections.abc import Sequence

from pipeline.artifacts.search_result import ALARM, UNKNOWN, Finding


def describe_findings(findings: Sequence[Finding] | None) -> list[str]:
    """Returns the lines about a search's health: one for each alarm and remark, one for everything that was not
    examined.

    Args:
        findings: The findings; None for a search that was not examined, which gives no line.
    """
    if findings is None:
        return []
    lines = [f"{found.seen} {found.advice}".strip() for found in findings if found.kind != UNKNOWN]
    if not any(found.kind == ALARM for found in findings):
        lines.insert(0, "Nothing was found that speaks against this search.")
    if unknown := [found.seen for found in findings if found.kind == UNKNOWN]:
        lines.append(f"Not examined: {'; '.join(unknown)}.")
    return lines


def count_words(number: float, noun: str) -> str:
    """Returns a number with its noun, in the plural unless it is 1."""
    return f"{number:g} {noun}{'s' * (number != 1)}"
