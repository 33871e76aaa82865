"""A run's newest checkpoint, where every node finds it: in a folder that they share, or in a bucket.

Whoever goes on with a run, on whatever node and after whatever loss, goes on from there. A checkpoint is a folder
`epoch-000007` that has `checkpoint.json`, which is written last; what is older goes when it is complete.
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
    """The checkpoints of one run. place: an absolute path, or an address in a bucket.

    Raises:
        StorageError: storage that cannot be reached, in whatever is done with it.
    """

    place: str

    @contextmanager
    def newest(self) -> Iterator[tuple[int, Path | None]]:
        """The last epoch of which there is a checkpoint, and its folder on this machine; 0 and None without any."""
        done = self.done()
        if not done:
            yield 0, None
            return
        with local_copy(self._at(done)) as folder:
            yield done, folder

    def done(self) -> int:
        """The last epoch of which there is a checkpoint; 0 without any."""
        return max((epoch for epoch in self._epochs() if exists(join(self._at(epoch), SIDECAR))), default=0)

    @contextmanager
    def write(self, epoch: int) -> Iterator[Path]:
        """An empty folder of this machine to write the checkpoint after an epoch into; kept when the block ends."""
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
        """Leave a note that nobody need go on, and why."""
        write_text(self._note, reason)

    def failure(self) -> str | None:
        """What `note_failure` has left."""
        return read_text(self._note) if exists(self._note) else None

    def forget_failure(self) -> None:
        """Take that note away, so that the run can be tried again."""
        remove_file(self._note)

    def clear(self) -> None:
        """Remove all of it."""
        remove([self.place])

    def _epochs(self) -> list[int]:
        names = [address.rpartition("/")[2] for address in list_dir(self.place)]
        return [int(name.removeprefix(PREFIX)) for name in names if name.startswith(PREFIX)]

    def _at(self, epoch: int) -> str:
        return join(self.place, f"{PREFIX}{epoch:06d}")

    @property
    def _note(self) -> str:
        return join(self.place, FAILED)
