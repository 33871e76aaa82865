"""Names of files and folders that operating systems and programs leave among pictures, and that are never read."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

NAMES = {
    # Windows
    "thumbs.db", "albumthumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "wpsettings.dat",
    "$recycle.bin", "system volume information",
    # macOS, on its own and on other file systems
    "__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder",
    # Linux, Android
    "lost+found", "lost.dir",
    # network storage
    "@eadir", "@recycle", "#recycle", "@tmp", "#snapshot", "@snapshot", "@recently-snapshot", "@sharebin",
    # programs
    "__pycache__", "_gsdata_", "picasa.ini", "zbthumbnail.info",
}  # fmt: skip
"""Complete names, in lower case."""
PATTERN = re.compile(
    r"\..*|found\.\d{3}|thumbs\.db:.*|.+:zone\.identifier|.+@synoeastream|.+@synoresource|~\$.+|.+\.\w+~", re.DOTALL
)
"""Hidden files, and names with varying parts."""
OLD_RECYCLER = "RECYCLER"
"""The recycle bin of Windows XP, which writes it in capitals. In other spellings it may be a class of objects."""
SHOWN = 8
"""Kinds that a message names."""


def is_leaving(name: str) -> bool:
    """Returns whether a name is one that systems leave, ignoring letter case and trailing blanks and dots.

    Args:
        name: Name of a file or folder, without its path.
    """
    folded = name.casefold()
    return name == OLD_RECYCLER or bool({folded, folded.rstrip(" .")} & NAMES) or PATTERN.fullmatch(folded) is not None


def leaving_kinds(names: Iterable[str]) -> dict[str, int]:
    """Returns the number of names of each kind, most frequent first.

    The `._name` that macOS writes beside every file count as one kind.
    """
    return dict(Counter("._*" if name.startswith("._") else name for name in names).most_common())


def describe_system_files(kinds: Mapping[str, int]) -> str:
    """Returns a line of text about the files that were left out.

    Args:
        kinds: Number of files and folders by kind, most frequent first.
    """
    some = [name if count == 1 else f"{name} ({count:,})" for name, count in list(kinds.items())[:SHOWN]]
    more = f" and {len(kinds) - SHOWN:,} more" if len(kinds) > SHOWN else ""
    return f"left out, as hidden or left by a system: {', '.join(some)}{more}"
