"""Paths as users write them, and the addresses of database files: `~`, and characters that addresses read otherwise."""

from pathlib import Path
from urllib.parse import unquote

SQLITE = "sqlite:///"


def expand_home(path: str) -> str:
    """A path with the home folder in the place of its leading `~` or `~user`, as a shell would give it.

    Raises:
        ValueError: there is no such user, or this one has no home.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        home = path.partition("/")[0]
        raise ValueError(f"{home} is nobody's home folder here; give the path in full, or ./{path}") from None


def database_uri(path: Path) -> str:
    """The address of a database file.

    SQLAlchemy decodes what stands in an address and ends its path at a question mark.
    """
    text = str(path)
    if database_path(text) != text:  # only where it must be, since MLflow makes the folder of an address as it is
        text = text.replace("%", "%25").replace("?", "%3F")
    return f"{SQLITE}{text}"


def database_path(uri: str) -> str:
    """The path that SQLAlchemy reads in the address of a database file."""
    return unquote(uri.removeprefix(SQLITE).partition("?")[0])
