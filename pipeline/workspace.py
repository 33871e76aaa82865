"""Where everything of a checkout lies.

What DVC declares as outs (`data/`, `models/`, `results/`) is deleted before a stage runs; whatever must survive that
lies under `state/`. `dvc exp run --temp` runs in a temporary copy of the checkout inside `.dvc/tmp`; state and the
default tracking store stay with the checkout that it was started from.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import UserError, quote_name
from pipeline.files.locks import acquire_lock, lock_holder

FOLDS = "folds"
"""The folder of what is of folds, within that of what is of all images; in it each fold has one by its number."""

UNFIT = {
    ":": "has a colon, at which PATH and PYTHONPATH are cut",
    "$": "has a dollar sign, which setuptools takes for a variable",
    "'": "has an apostrophe, which MLflow's database takes for the end of a text",
    "%": "has a percent sign, which MLflow's database takes for the beginning of a field",
    "{": "has a brace, which DVC takes for a field to fill in",
    "}": "has a brace, which DVC takes for a field to fill in",
}
"""Signs that no path of a checkout may have, and why."""


@dataclass(frozen=True)
class Workspace:
    """A checkout. root: where dvc.yaml and params.yaml are. anchor: the checkout that state and tracking belong to.

    own: the folder of one method of a comparison, which has parameters, models and results of its own; None: those of
    the checkout.
    """

    root: Path
    anchor: Path
    own: Path | None = None

    @property
    def params(self) -> Path:
        return (self.own or self.root) / "params.yaml"

    @property
    def prepared(self) -> Path:
        return self.root / "data" / "prepared"

    @property
    def split(self) -> Path:
        return self.root / "data" / "split.json"

    @property
    def models(self) -> Path:
        """Retrained weights, a folder `<arm>-seed<n>` each."""
        return (self.own or self.root) / "models"

    @property
    def results(self) -> Path:
        """What stages found, a folder a stage."""
        return self.own or self.root / "results"

    @property
    def comparison(self) -> Path:
        """What the last `sar-search compare --run` found: a page, and a folder a method (`own`)."""
        return self.root / "results" / "compare"

    def compared(self) -> list["Workspace"]:
        """Those of the searches of the last comparison, whether it has ended or not."""
        folders = sorted(path.parent for path in self.comparison.glob("*/params.yaml"))
        return [replace(self, own=folder) for folder in folders]

    @property
    def state(self) -> Path:
        """Searches and retraining in progress, looks at test images: outlives every stage."""
        return self.anchor / "state"

    @property
    def searches(self) -> Path:
        """Working state of searches, a folder each, by the first 16 digits of its fingerprint."""
        return self.state / "searches"

    @property
    def stage_status(self) -> Path:
        """Where a stage notes the status that it fails with, which DVC does not pass on."""
        return self.state / "stage.status"

    @contextmanager
    def locked(self, doing: str, *, lock: str = "stage") -> Iterator[None]:
        """Hold the checkout, for one stage or (lock="repro") for all. It goes with the process, however that ends.

        A stage of an experiment in a temporary copy waits for its turn: nobody is there to start it again.

        Raises:
            UserError: another process is at work here; a stage may have outlived the `dvc` that started it.
        """
        path, work = self.state / f"{lock}.lock", "a stage" if lock == "stage" else "the pipeline"
        held = acquire_lock(
            path,
            lambda: (
                f"{self.anchor}: another process is running {work} of this checkout ({lock_holder(path)}). Wait for "
                f"it, or end it, before you start {doing} again."
            ),
            lambda reason: f"{path}: cannot be written ({reason}).",
            waiting=(
                (lambda: f"{doing} waits for another stage of {self.anchor} to end ({lock_holder(path)})")
                if self.root != self.anchor
                else None
            ),
            note=f"{doing}, process {os.getpid()}",
        )
        try:
            yield
        finally:
            held.release()

    def check_writable(self) -> None:
        """Try to write where the stages will, without making any folder.

        Raises:
            UserError: one of the folders cannot be written, or made where it is to be.
        """
        for folder in (self.prepared.parent, self.models, self.results, self.state):
            there = folder
            while not there.exists() and not there.is_symlink():
                there = there.parent
            probe = there / f".writable-{os.getpid()}"
            try:
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise UserError(
                    f"{folder}: cannot be written ({error.strerror or error}). "
                    "Make it a folder that you may write to, or move the checkout."
                ) from None


def part_folder(whole: Path, number: int) -> Path:
    """Where the results of a fold are, counted from 1; 0: of all images, which are in `whole`."""
    return whole / FOLDS / str(number) if number else whole


def find_workspace(start: Path | None = None) -> Workspace:
    """The checkout that a folder (default: the current one) lies in.

    Raises:
        UserError: no folder above it has a dvc.yaml and a params.yaml; its path has a sign that engines fail with.
    """
    here = (start or Path.cwd()).resolve()
    for root in (here, *here.parents):
        if (root / "dvc.yaml").is_file() and (root / "params.yaml").is_file():
            _check_path(root)
            return Workspace(root, _anchor(root))
    raise UserError(f"{here}: no dvc.yaml and params.yaml here or above. Go to the checkout's folder.")


def _check_path(root: Path) -> None:
    """Refuse a path with which one of the engines fails, later and in other words."""
    path = str(root)
    reason = next((reason for sign, reason in UNFIT.items() if sign in path), None)
    if reason is None and not all(sign.isprintable() for sign in path):  # also bytes that are no UTF-8
        reason = "has a sign that cannot be printed, which databases and addresses do not take"
    if reason is not None:
        raise UserError(f"{quote_name(path, 400)}: its path {reason}. Rename the folder, or move the checkout.")


def _anchor(root: Path) -> Path:
    parts = root.parts
    for index in range(len(parts) - 2):
        if parts[index : index + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:index])
    return root
