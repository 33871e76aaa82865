"""What systems and programs leave among pictures: never a class, never a picture."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

NAMES = {
    # Windows
    "thumbs.db", "albumthumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "wpsettings.dat",
    "$recycle.bin", "system volume information",
    # macOS, and those that it leaves on other file systems
    "__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder",
    # Linux, Android
    "lost+found", "lost.dir",
    # network storage
    "@eadir", "@recycle", "#recycle", "@tmp", "#snapshot", "@snapshot", "@recently-snapshot", "@sharebin",
    # programs
    "__pycache__", "_gsdata_", "picasa.ini", "zbthumbnail.info",
}  # fmt: skip
PATTERN = re.compile(
    r"\..*|found\.\d{3}|thumbs\.db:.*|.+:zone\.identifier|.+@synoeastream|.+@synoresource|~\$.+|.+\.\w+~", re.DOTALL
)
"""Hidden ones, and those whose names vary."""
OLD_RECYCLER = "RECYCLER"
"""As Windows XP writes it, in capitals; in others it may well be a class of things."""
SHOWN = 8


def is_leaving(name: str) -> bool:
    """Whether a file or folder of that name is one, in any letter case, blanks and dots at the end aside."""
    folded = name.casefold()
    return name == OLD_RECYCLER or bool({folded, folded.rstrip(" .")} & NAMES) or PATTERN.fullmatch(folded) is not None


def leaving_kinds(names: Iterable[str]) -> dict[str, int]:
    """How many there are of each kind; macOS has a `._name` beside every file."""
    return dict(Counter("._*" if name.startswith("._") else name for name in names).most_common())


def describe_system_files(kinds: Mapping[str, int]) -> str:
    """A line about what was left out."""
    some = [name if count == 1 else f"{name} ({count:,})" for name, count in list(kinds.items())[:SHOWN]]
    more = f" and {len(kinds) - SHOWN:,} more" if len(kinds) > SHOWN else ""
    return f"left out, as hidden or left by a system: {', '.join(some)}{more}"
