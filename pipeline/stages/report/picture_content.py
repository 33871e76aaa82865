"""The report's part on the pictures: how many of each class have which role, and what is odd about them."""

from collections.abc import Mapping
from typing import Any

from pipeline.console.format import format_count
from pipeline.data.prepared.prepared import Manifest, describe_oddities
from pipeline.figures.report import Row, Words
from pipeline.inputs.data_split import count_copies

CLASSES_SHOWN = 20
"""Classes that the table shows at most: those with the fewest images, which limit what can be learnt and shown."""


def picture_rows(report: Mapping[str, Any]) -> list[Row]:
    """Returns rows with class and `images`, its numbers by role and in all; the last one is of all classes.

    At most `CLASSES_SHOWN` classes have rows: those with the fewest images. A role without images is left out. There
    are no rows if the report is empty.

    Args:
        report: The split's report.
    """
    if not report:
        return []
    roles = [role for role, count in report["images"].items() if count]
    classes: dict[str, dict[str, int]] = {}
    for name, counts in report["classes"].items():
        classes[name] = {role: counts[role] for role in roles} | {"all": sum(counts.values())}
    fewest = sorted(classes, key=lambda name: classes[name]["all"])[:CLASSES_SHOWN]
    rows: list[Row] = [{"class": name, "images": counts} for name, counts in classes.items() if name in fewest]
    totals = {role: sum(counts[role] for counts in classes.values()) for role in (*roles, "all")}
    return [*rows, {"class": f"all {len(classes):,} classes", "images": totals}]


def describe_pictures(manifest: Manifest, report: Mapping[str, Any]) -> Words:
    """Returns origin, size, masks, broken files and copies of the pictures, as (name, words) pairs.

    Args:
        manifest: Manifest of the prepared set.
        report: The split's report; empty if there is none.
    """
    height, width = manifest["image_size"]
    said = [
        ("from", f"{manifest['origin']} (licence: {manifest['licence']})"),
        ("size", f"{height} x {width} pixels, {format_count(manifest['channels'], 'channel')}"),
    ]
    if not manifest["has_masks"]:
        said.append(("masks", "none"))
    elif (masks := report.get("masks")) is not None:
        boxes = ", drawn from boxes" if manifest.get("masks_from") == "boxes" else ""
        said.append(("masks", f"{masks:,} for {format_count(manifest['images'], 'picture')}{boxes}"))
    skipped = manifest.get("skipped")
    said.append(("broken files", f"{len(skipped):,} left out (see data/prepared/manifest.json)" if skipped else "none"))
    if report:
        counts = {kind: count_copies(report, kind) for kind in ("exact", "near")}
        said += [(f"{kind} copies", _describe_copies(count)) for kind, count in counts.items()]
    return said


def _describe_copies(count: int | None) -> str:
    if count is None:
        return "not looked for (split.duplicates, split.duplicate_distance, or pictures that are too small)"
    if not count:
        return "none in several roles"
    return f"{format_count(count, 'picture')} of test or val with copies in another role"


def picture_remarks(manifest: Manifest, report: Mapping[str, Any]) -> list[str]:
    """Returns what the stages `prepare` and `split` found odd about the pictures.

    Args:
        manifest: Manifest of the prepared set.
        report: The split's report; one of an earlier version has no remarks.
    """
    return [f"{line[0].upper()}{line[1:]}" for line in (*describe_oddities(manifest), *report.get("remarks", []))]
