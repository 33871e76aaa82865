"""Files that one process at a time can hold. A lock goes with its process, however that ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UserError

FOREVER_S = -1.0
WAIT_S = 0.5
"""How often a process that waits for its turn looks whether it has come."""


def acquire_lock(
    path: Path,
    held: str | Callable[[], str] = "",
    denied: Callable[[str], str] | None = None,
    *,
    wait_s: float = 0.0,
    waiting: Callable[[], str] | None = None,
    note: str | None = None,
) -> FileLock:
    """Hold a lock file; whoever calls it releases it.

    Args:
        path: The file.
        held: What to tell the user when another process holds it.
        denied: What to tell when the file cannot be written, given the reason; None: the OSError is raised.
        wait_s: How long to wait for the other process.
        waiting: What to print when it has not ended by then, and then to wait without end; None: to give up.
        note: What `lock_holder` tells other processes.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            if waiting is None:
                raise
            print(waiting(), flush=True)
            lock.acquire(poll_interval=WAIT_S)
        if note is not None:
            _note(path).write_text(note)
    except Timeout:
        raise UserError(held() if callable(held) else held) from None
    except OSError as error:
        if denied is None:
            raise
        raise UserError(denied(error.strerror or str(error))) from None
    return lock


@contextmanager
def locked(path: Path, held: str = "", denied: Callable[[str], str] | None = None, *, wait_s: float) -> Iterator[None]:
    """Hold a lock file inside. Arguments and errors: as of `acquire_lock`."""
    lock = acquire_lock(path, held, denied, wait_s=wait_s)
    try:
        yield
    finally:
        lock.release()


def lock_holder(path: Path) -> str:
    """What the process that holds a lock file has noted of itself."""
    try:
        return _note(path).read_text()
    except OSError:
        return "unknown"


def _note(path: Path) -> Path:
    return path.with_suffix(".pid")
