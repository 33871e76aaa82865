"""Ray Tune callback: passes Ray Tune's events to the search controller."""

import errno
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from pipeline.cluster.connect import Capacity
from pipeline.cluster.storage import address_of, join
from pipeline.errors import UserError, join_lines
from pipeline.tune.controller import SearchController
from pipeline.tune.journal.records import FAILED, INFEASIBLE
from pipeline.tune.ray.trial_spec import APART, STACK
from pipeline.tune.ray.worker_entry import REFUSED

LOOK_S = 2.0
"""Seconds between two checks of whether the user has asked the search to finish."""

FULL = "No space left on device"
"""Text of the operating system's error on a full disk."""


class JournalCallback(tune.Callback):
    """Callback that passes events of trials to the search controller. Runs on Ray Tune's loop.

    Args:
        controller: The search controller.
        capacity: Capacity of a cluster, on which trials may wait for a place; the wait does not count as their
            time. None on this machine alone.

    Attributes:
        fatal_error: Error that ends the search though no trial is to blame, such as a full disk; None without
            one.
    """

    def __init__(self, controller: SearchController, capacity: Capacity | None = None) -> None:
        self._controller, self._capacity = controller, capacity
        self.fatal_error: Exception | None = None
        self._failures: Counter[str] = Counter()
        self._looked = 0.0

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        # Ray asks for the next trial only when one has ended, which may take hours.
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            with self.capture_fatal():
                self._controller.check_stop_request()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._capacity is not None:
            with self.capture_fatal():
                runs = self._runs(trial)
                for name in runs:
                    self._controller.journal.resume(name, beside=None if name == runs[0] else runs[0])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        reports = result.get(STACK, [{"trial": trial.config["trial"]} | result])
        for report in (each for each in reports if "measured" in each):
            with self.capture_fatal():
                self._controller.journal.measured(report["trial"], report["measured"])

    def on_checkpoint(self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any) -> None:
        with self.capture_fatal():
            address = address_of(checkpoint)
            for name in self._runs(trial):
                self._controller.checkpoint(name, join(address, name) if STACK in trial.config else address)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result
        with self.capture_fatal():
            if REFUSED in result:
                self._leave(self._runs(trial), result[REFUSED])
            elif STACK in trial.config:
                self._end_stack(self._runs(trial), result.get(APART))
            elif result.get("failed"):
                self._controller.end_trial(trial.config["trial"], FAILED, result["failed"])
            elif result.get("infeasible"):
                self._controller.end_trial(trial.config["trial"], INFEASIBLE, result["infeasible"])
            else:
                self._controller.release(trial.config["trial"])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # A worker has died, and Ray starts the trial again, which would fail again on a full disk.
        with self.capture_fatal():
            self._check_room(_reason(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        said, name = _reason(trial), trial.config["trial"]
        with self.capture_fatal():
            self._check_room(said)
            if STACK in trial.config:
                # Of several networks, one alone may do what ends their worker, such as to take too much memory.
                self._end_stack(self._runs(trial), {"size": 1, "why": "their worker was lost too often"})
                return
            # If a worker dies between two trials, Ray reports it twice. At the second report it gives the trial up, as
            # if the allowed number of failures were reached.
            if self._controller.is_decided(name):
                self._controller.release(name)  # the trial was to pause or stop anyway
                return
            self._failures[name] += trial.run_metadata.num_failures
            if 0 < self._failures[name] <= trial.max_failures:
                self._controller.requeue(name)
                return
            self._controller.end_trial(name, FAILED, said[-2000:])

    def _runs(self, trial: Trial) -> list[str]:
        """Returns the runs that a trial of Ray's trains: one, or those of a stack that have not ended."""
        names = [run["trial"] for run in trial.config.get(STACK, ())]
        trials = self._controller.journal.trials
        return [name for name in names if trials[name].state is None] if names else [trial.config["trial"]]

    def _leave(self, names: Sequence[str], refused: Mapping[str, Any]) -> None:
        """Queues runs again, away from a node that was rejected, and prints the reason once for the node."""
        assert self._capacity is not None
        if self._capacity.exclude_node(refused["node"]):
            print(join_lines(f"not used: {line}" for line in refused["why"]), file=sys.stderr, flush=True)
        for name in names:
            self._controller.requeue(name)

    def _end_stack(self, names: Sequence[str], apart: Mapping[str, Any] | None) -> None:
        """Ends the runs of a stack that are done, and queues the others again if their worker gave them back.

        Args:
            names: The runs that have not ended.
            apart: The size of the stacks in which they are to be trained, and why; None if they have been trained.
        """
        done = [name for name in names if apart is None or self._controller.is_decided(name)]
        for name in done:
            self._controller.release(name)
        left = [name for name in names if name not in done]
        if left and apart is not None:
            of = self._controller.journal.trials[left[0]].of
            how = "alone" if apart["size"] == 1 else f"with at most {apart['size']} seeds together"
            print(f"{of}: each of its confirmations is trained {how}: {apart['why']}", file=sys.stderr, flush=True)
            self._controller.give_back(left, apart["size"])

    def _check_room(self, said: str) -> None:
        """Raises an error if a failure's text or a test file shows that the disk is full."""
        if FULL in said or not _has_room(self._controller.folder):
            raise UserError(
                f"the disk that holds {self._controller.folder}, or the workers' temporary files, is full. Free some "
                "space, and run the same command again; what had finished is kept."
            )

    @contextmanager
    def capture_fatal(self) -> Iterator[None]:
        """Stores an error that ends the search, since Ray wraps such an error or only logs it."""
        if self.fatal_error is not None:
            raise self.fatal_error
        try:
            yield
        except (UserError, OSError) as error:
            self.fatal_error = error
            raise


def _reason(trial: Trial) -> str:
    """Returns the error of a trial from Ray's files.

    Ray writes it to a file in the trial's directory, and on a full disk may not have copied it any further.
    """
    for place in (trial.error_file, trial.path and f"{trial.path}/{Path(trial.error_file or '').name}"):
        if place and Path(place).is_file():
            return Path(place).read_text(errors="replace")
    return "its worker ended without an error message"


def _has_room(folder: Path) -> bool:
    """Returns whether a small file can be written."""
    probe = folder / "room"
    try:
        probe.write_bytes(bytes(65536))
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True
