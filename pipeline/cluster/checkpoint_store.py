"""Newest checkpoint of a run, in a folder or bucket that all nodes share.

A run resumes from it on any node and after any loss. A checkpoint is a folder `epoch-000007` with a
`checkpoint.json`, which is written last. Older checkpoints are removed once a new one is complete.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster.storage import (
    copy_in,
    exists,
    is_s3,
    join,
    list_dir,
    local_copy,
    read_text,
    remove,
    remove_file,
    write_text,
)
from pipeline.files.atomic import replace_folder
from pipeline.train.sidecar import SIDECAR

FAILED = "failed"
PREFIX = "epoch-"


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints of one run.

    Every method may raise a `StorageError` if storage cannot be reached.

    Attributes:
        place: an absolute path, or an address in a bucket.
    """

    place: str

    @contextmanager
    def newest(self) -> Iterator[tuple[int, Path | None]]:
        """Yields the newest checkpoint for the duration of the block.

        Yields:
            (epochs done, folder on this machine), or (0, None) if there is no checkpoint.
        """
        done = self.done()
        if not done:
            yield 0, None
            return
        with local_copy(self._at(done)) as folder:
            yield done, folder

    def done(self) -> int:
        """Returns the last epoch that has a checkpoint; 0 if there is none."""
        return max((epoch for epoch in self._epochs() if exists(join(self._at(epoch), SIDECAR))), default=0)

    @contextmanager
    def write(self, epoch: int) -> Iterator[Path]:
        """Yields an empty folder of this machine for the checkpoint after an epoch.

        The checkpoint is stored, and older ones are removed, when the block ends.
        """
        if is_s3(self.place):
            with tempfile.TemporaryDirectory(prefix="sar-search-") as made:
                yield Path(made)
                for file in sorted(Path(made).iterdir(), key=lambda path: path.name == SIDECAR):
                    copy_in(file, join(self._at(epoch), file.name))
        else:
            partial = Path(self.place) / f"partial-{os.getpid()}"
            with replace_folder(Path(self._at(epoch)), partial=partial) as folder:
                yield folder
        remove([self._at(older) for older in self._epochs() if older < epoch])

    def note_failure(self, reason: str) -> None:
        """Writes a note that the run must not be started again, with the reason."""
        write_text(self._note, reason)

    def failure(self) -> str | None:
        """Returns the reason that `note_failure` has written; None without one."""
        return read_text(self._note) if exists(self._note) else None

    def forget_failure(self) -> None:
        """Removes the note of `note_failure`, so that the run can be started again."""
        remove_file(self._note)

    def clear(self) -> None:
        """Removes all checkpoints and the note."""
        remove([self.place])

    def _epochs(self) -> list[int]:
        names = [address.rpartition("/")[2] for address in list_dir(self.place)]
        return [int(name.removeprefix(PREFIX)) for name in names if name.startswith(PREFIX)]

    def _at(self, epoch: int) -> str:
        return join(self.place, f"{PREFIX}{epoch:06d}")

    @property
    def _note(self) -> str:
        return join(self.place, FAILED)
