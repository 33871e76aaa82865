"""Ray Tune callback: passes what Ray Tune reports of its trials to the search controller."""

import errno
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from pipeline.cluster.connect import Capacity
from pipeline.cluster.storage import address_of
from pipeline.errors import UserError, join_lines
from pipeline.tune.controller import SearchController
from pipeline.tune.journal.records import FAILED, INFEASIBLE
from pipeline.tune.ray.worker_entry import REFUSED

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

LOOK_S = 2.0
"""How often it is looked whether the search has been asked to finish."""

FULL = "No space left on device"


class JournalCallback(tune.Callback):
    """Writes what happens to trials into the search. Runs on Ray Tune's loop.

    capacity: of a cluster, on which trials may have to wait for a place, which is not time that they take; else None.
    fatal_error: what the search cannot go on from, though no trial is to blame, such as a full disk.
    """

    def __init__(self, controller: SearchController, capacity: Capacity | None = None) -> None:
        self._controller, self._capacity = controller, capacity
        self.fatal_error: Exception | None = None
        self._failures: Counter[str] = Counter()
        self._looked = 0.0

    def on_step_begin(self, iteration: int, trials: "list[Trial]", **info: Any) -> None:
        # Ray asks for the next trial only when one has ended, which may be hours away.
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            with self.capture_fatal():
                self._controller.check_stop_request()

    def on_trial_start(self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: Any) -> None:
        if self._capacity is not None:
            with self.capture_fatal():
                self._controller.journal.resume(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: "list[Trial]", trial: "Trial", result: dict[str, Any], **info: Any
    ) -> None:
        if "measured" in result:
            with self.capture_fatal():
                self._controller.journal.measured(trial.config["trial"], result["measured"])

    def on_checkpoint(
        self, iteration: int, trials: "list[Trial]", trial: "Trial", checkpoint: Any, **info: Any
    ) -> None:
        with self.capture_fatal():
            self._controller.checkpoint(trial.config["trial"], address_of(checkpoint))

    def on_trial_complete(self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: Any) -> None:
        result = trial.last_result
        with self.capture_fatal():
            if REFUSED in result:
                self._leave(trial.config["trial"], result[REFUSED])
            elif result.get("failed"):
                self._controller.end_trial(trial.config["trial"], FAILED, result["failed"])
            elif result.get("infeasible"):
                self._controller.end_trial(trial.config["trial"], INFEASIBLE, result["infeasible"])
            else:
                self._controller.release(trial.config["trial"])

    def on_trial_recover(self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: Any) -> None:
        """A worker died, and the trial will start again; where the disk is full, in vain."""
        with self.capture_fatal():
            self._check_room(_reason(trial))

    def on_trial_error(self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: Any) -> None:
        said, name = _reason(trial), trial.config["trial"]
        with self.capture_fatal():
            self._check_room(said)
            # Where a worker dies between two trials, Ray tells of it twice, and takes the second time for the last one.
            if self._controller.is_decided(name):
                self._controller.release(name)  # it had nothing more to do
                return
            self._failures[name] += trial.run_metadata.num_failures
            if 0 < self._failures[name] <= trial.max_failures:
                self._controller.requeue(name)
                return
            self._controller.end_trial(name, FAILED, said[-2000:])

    def _leave(self, name: str, refused: Mapping[str, Any]) -> None:
        """Hand a trial out again, away from a node that will not do, and say so once for the node."""
        assert self._capacity is not None
        if self._capacity.exclude_node(refused["node"]):
            print(join_lines(f"not used: {line}" for line in refused["why"]), file=sys.stderr, flush=True)
        self._controller.requeue(name)

    def _check_room(self, said: str) -> None:
        if FULL in said or not _has_room(self._controller.folder):
            raise UserError(
                f"the disk that holds {self._controller.folder}, or the workers' temporary files, is full. Free some "
                "space, and run the same command again; what had finished is kept."
            )

    @contextmanager
    def capture_fatal(self) -> Iterator[None]:
        """Keep what the search cannot go on from, since Ray wraps it or only makes a note of it."""
        if self.fatal_error is not None:
            raise self.fatal_error
        try:
            yield
        except (UserError, OSError) as error:
            self.fatal_error = error
            raise


def _reason(trial: "Trial") -> str:
    """What went wrong, as Ray has noted it beside the trial's own files; on a full disk it may have got no further."""
    for place in (trial.error_file, trial.path and f"{trial.path}/{Path(trial.error_file or '').name}"):
        if place and Path(place).is_file():
            return Path(place).read_text(errors="replace")
    return "its worker ended without a word"


def _has_room(folder: Path) -> bool:
    """Whether a small file can be written."""
    probe = folder / "room"
    try:
        probe.write_bytes(bytes(65536))
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True
