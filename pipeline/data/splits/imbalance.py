"""Names the classes of a set that have far fewer images than the largest one."""

from collections.abc import Sequence

from pipeline.errors import quote_name

IMBALANCE = 3.0
"""A class is rare if the largest one has at least this many times more images.

With two classes at this ratio, always predicting the larger one gives 75 % accuracy, which hardly shows
whether the other class is learnt.
"""

SHOWN = 3
"""Rare classes that the text names."""


def describe_imbalance(classes: Sequence[str], counts: Sequence[int]) -> str | None:
    """Returns a text with the largest class and the rare ones, rarest first, with their images and shares.

    Args:
        classes: Names by label.
        counts: Images by label; a class without any is left out.

    Returns:
        The text, or None if no class is rare.
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
    """Returns a class's images and share as text.

    Args:
        count: Images of the class.
        total: Images of all classes.
        noun: Word after the number, with a blank.
    """
    percent = 100 * count / total
    return f"{count:,} {noun}({percent:.1f} %)" if percent >= 1 else f"{count:,} {noun}({percent:.2g} %)"
