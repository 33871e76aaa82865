"""Work that goes on beside training, one piece at a time: a checkpoint written, sent, and reported.

A thread pays where a piece takes long: large networks, storage far away. A small network's checkpoint takes a hundredth
of its epoch, and stays where it is made.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from pipeline.train.checkpoint import copy_tensors
from pipeline.train.sidecar import TrainState

LEAST_S = 0.2
LEAST_SHARE = 0.02
"""A piece that takes more than both, in seconds and as a share of an epoch, is worth a thread."""


class CheckpointWriter:
    """The pieces of one run, in their order. At the end of the block all have ended.

    An error of a piece is raised by whatever is asked next. So is its SystemExit, with which Ray ends a trial.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def is_worth_a_thread(self, epoch_seconds: float) -> bool:
        """Whether the last piece took long enough, beside an epoch of so many seconds, to be worth a thread."""
        self.wait()
        return self._seconds > max(LEAST_S, LEAST_SHARE * epoch_seconds)

    def save(
        self,
        write: Callable[[nn.Module | Mapping[str, Tensor], Mapping[str, Any] | None], None],
        model: nn.Module,
        state: TrainState | None,
        *,
        epoch_seconds: float,
        blocking: bool,
    ) -> None:
        """Have a checkpoint written by write(weights, state): of copies in a thread where that pays, else at once.

        epoch_seconds: of the epoch that it is of. blocking: it must be there when this returns.
        """
        beside = not blocking and self.is_worth_a_thread(epoch_seconds)
        weights: nn.Module | Mapping[str, Tensor] = model
        if beside:
            weights, state = copy_tensors(model.state_dict()), copy_tensors(state)
        self.run(partial(write, weights, state), beside=beside)

    def run(self, write: Callable[[], None], *, beside: bool) -> None:
        """Do a piece once the one before has ended: in a thread, or, not beside, before this returns.

        A piece in a thread must not touch what training changes.
        """
        self.wait()
        if not beside:
            self._timed(write)
            return
        self._thread = threading.Thread(target=self._capture_error, args=(write,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when no piece is under way, and raise what the last one has raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:
                raise  # else training's own error is told

    def _capture_error(self, write: Callable[[], None]) -> None:
        try:
            self._timed(write)
        except BaseException as error:
            self._error = error

    def _timed(self, write: Callable[[], None]) -> None:
        started = time.perf_counter()
        write()
        self._seconds = time.perf_counter() - started
