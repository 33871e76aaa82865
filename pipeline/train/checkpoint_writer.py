"""Writer of checkpoints that can work in a thread beside training, on one checkpoint at a time.

A checkpoint may also be sent to storage and reported in the same call. A thread pays where this takes long:
for large networks, or storage far away. A small network's checkpoint takes a hundredth of its epoch, and is
written without a thread.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

from pipeline.train.checkpoint import copy_tensors
from pipeline.train.sidecar import TrainState

LEAST_S = 0.2
LEAST_SHARE = 0.02
"""A write that takes longer than both, in seconds and as a share of an epoch, is worth a thread."""


class CheckpointWriter:
    """Writer of one run's checkpoints, in their order. When the `with` block ends, all writes have ended.

    An error in a thread is raised by the next call. This includes SystemExit, with which Ray ends a trial.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def is_worth_a_thread(self, epoch_seconds: float) -> bool:
        """Returns whether the last write took long enough, relative to an epoch of `epoch_seconds`, to be
        worth a thread.
        """
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
        """Saves a checkpoint, in a thread on copies of the tensors if that pays, otherwise before this returns.

        Args:
            write: writes the checkpoint; its arguments are the network or its tensors by name, and the training state.
            model: the network.
            state: training state to resume from; None: none.
            epoch_seconds: duration of the checkpoint's epoch, in seconds.
            blocking: whether the checkpoint must be complete when this returns.
        """
        beside = not blocking and self.is_worth_a_thread(epoch_seconds)
        weights: nn.Module | Mapping[str, Tensor] = model
        if beside:
            weights, state = copy_tensors(model.state_dict()), copy_tensors(state)
        self.run(partial(write, weights, state), beside=beside)

    def run(self, write: Callable[[], None], *, beside: bool) -> None:
        """Calls `write` once the previous write has ended.

        In a thread, `write` must not use objects that training changes.

        Args:
            write: the work to do.
            beside: whether it runs in a thread; otherwise it has ended when this returns.
        """
        self.wait()
        if not beside:
            self._timed(write)
            return
        self._thread = threading.Thread(target=self._capture_error, args=(write,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits until no write is in progress, and raises the error of the last one, if any."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Waits for the last write, whose own error is raised only if no other error ends the block."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise  # otherwise training's own error is reported

    def _capture_error(self, write: Callable[[], None]) -> None:
        try:
            self._timed(write)
        except BaseException as error:
            self._error = error

    def _timed(self, write: Callable[[], None]) -> None:
        started = time.perf_counter()
        write()
        self._seconds = time.perf_counter() - started
