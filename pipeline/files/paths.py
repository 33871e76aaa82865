"""Paths as users write them, with `~`, and addresses of database files, in which some characters must be escaped."""

from pathlib import Path
from urllib.parse import unquote

SQLITE = "sqlite:///"


def expand_home(path: str) -> str:
    """Returns a path with its leading `~` or `~user` replaced by the home folder, as a shell does.

    Args:
        path: The path as the user wrote it. Without a leading `~` it is returned unchanged.

    Raises:
        ValueError: If there is no such user, or the user has no home folder.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        home = path.partition("/")[0]
        raise ValueError(f"{home} is nobody's home folder here; give the path in full, or ./{path}") from None


def database_uri(path: Path) -> str:
    """Returns the address of an SQLite file.

    SQLAlchemy decodes percent escapes in an address and ends its path at a question mark, so such characters
    are escaped.

    Args:
        path: The database file.
    """
    text = str(path)
    if database_path(text) != text:  # only if needed, since MLflow creates the folder without decoding
        text = text.replace("%", "%25").replace("?", "%3F")
    return f"{SQLITE}{text}"


def database_path(uri: str) -> str:
    """Returns the path that SQLAlchemy reads from the address of an SQLite file.

    Args:
        uri: The address, with or without `sqlite:///`.
    """
    return unquote(uri.removeprefix(SQLITE).partition("?")[0])
