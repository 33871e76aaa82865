"""Names the classes of a set that have far fewer images than the largest one."""

from collections.abc import Sequence

from pipeline.errors import quote_name

IMBALANCE = 3.0
"""A class is rare from so many times fewer images than the largest one has: of two classes, who always says the larger
one is right three times of four by then, so that accuracy hardly tells whether the other is learnt."""

SHOWN = 3


def describe_imbalance(classes: Sequence[str], counts: Sequence[int]) -> str | None:
    """The largest class and the rare ones, rarest first, with their images and shares; None where no class is rare.

    Args:
        classes: Names by label.
        counts: Images by label; a class without any is left out.
    """
    total, most = sum(counts), max(counts, default=0)
    rare = sorted((count, label) for label, count in enumerate(counts) if 0 < count <= most / IMBALANCE)
    if not rare:
        return None
    largest = list(counts).index(most)
    shown = ", ".join(f"{quote_name(classes[label], 60)} {_size(count, total)}" for count, label in rare[:SHOWN])
    more = f", and {len(rare) - SHOWN:,} more have a third of that or less" if len(rare) > SHOWN else ""
    return f"imbalanced: {quote_name(classes[largest], 60)} has {_size(most, total, 'images ')}, {shown}{more}"


def _size(count: int, total: int, noun: str = "") -> str:
    percent = 100 * count / total
    return f"{count:,} {noun}({percent:.1f} %)" if percent >= 1 else f"{count:,} {noun}({percent:.2g} %)"
