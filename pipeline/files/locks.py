"""Lock files, each held by one process at a time. The operating system releases a lock when its process ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UserError

FOREVER_S = -1.0
"""Timeout that means to wait without end."""
WAIT_S = 0.5
"""Seconds between two attempts of a process that waits for a lock."""


def acquire_lock(
    path: Path,
    held: str | Callable[[], str] = "",
    denied: Callable[[str], str] | None = None,
    *,
    wait_s: float = 0.0,
    waiting: Callable[[], str] | None = None,
    note: str | None = None,
) -> FileLock:
    """Acquires a lock file; the caller must release it.

    Args:
        path: The lock file. Its folder is created, too.
        held: Error message if another process holds the lock, or a function that returns it.
        denied: Returns the error message if the file cannot be written, given the reason. None: the OSError
            is raised.
        wait_s: Seconds to wait for the other process.
        waiting: Returns the line to print after `wait_s`, before waiting without end. None: the call fails
            then.
        note: Text about this process, which `lock_holder` returns to other processes. None: no text is
            written.

    Raises:
        UserError: If another process holds the lock, or the file cannot be written.
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
            note_holder(path, note)
    except Timeout:
        raise UserError(held() if callable(held) else held) from None
    except OSError as error:
        if denied is None:
            raise
        raise UserError(denied(error.strerror or str(error))) from None
    return lock


@contextmanager
def locked(path: Path, held: str = "", denied: Callable[[str], str] | None = None, *, wait_s: float) -> Iterator[None]:
    """Holds a lock file during the block.

    Args:
        path: The lock file. Its folder is created, too.
        held: Error message if another process holds the lock.
        denied: Returns the error message if the file cannot be written, given the reason. None: the OSError
            is raised.
        wait_s: Seconds to wait for the other process.

    Raises:
        UserError: If another process holds the lock, or the file cannot be written.
    """
    lock = acquire_lock(path, held, denied, wait_s=wait_s)
    try:
        yield
    finally:
        lock.release()


def lock_holder(path: Path) -> str:
    """Returns the note of the process that acquired the lock last, or "unknown".

    Args:
        path: The lock file.
    """
    try:
        return _note(path).read_text()
    except OSError:
        return "unknown"


def note_holder(path: Path, note: str) -> None:
    """Records text about the process that holds a lock, for `lock_holder`.

    Args:
        path: The lock file.
        note: The text.
    """
    _note(path).write_text(note)


def _note(path: Path) -> Path:
    return path.with_suffix(".pid")
