"""Paths of a checkout.

DVC deletes the outs that it declares (`data/`, `models/`, `results/`) before a stage runs. Files that must survive
this lie under `state/`. `dvc exp run --temp` runs in a temporary copy of the checkout inside `.dvc/tmp`. State and
the default tracking store stay with the checkout from which it was started.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import UserError, quote_name
from pipeline.files.locks import acquire_lock, lock_holder, note_holder

FOLDS = "folds"
"""Name of the folder with the results of folds, within the folder of all images. It contains one folder a fold, by
number.
"""

UNFIT = {
    ":": "has a colon, at which PATH and PYTHONPATH are cut",
    "$": "has a dollar sign, which setuptools takes for a variable",
    "'": "has an apostrophe, which MLflow's database takes for the end of a text",
    "%": "has a percent sign, which MLflow's database takes for the beginning of a field",
    "{": "has a brace, which DVC takes for a field to fill in",
    "}": "has a brace, which DVC takes for a field to fill in",
}
"""Characters that no path of a checkout may contain, and the reasons."""


@dataclass(frozen=True)
class Workspace:
    """A checkout.

    Attributes:
        root: Folder with dvc.yaml and params.yaml.
        anchor: Checkout that state and tracking belong to.
        own: Folder of one method of a comparison, which has parameters, models and results of its own; None: those of
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
        """Retrained weights, in a folder `<arm>-seed<n>` for each run."""
        return (self.own or self.root) / "models"

    @property
    def results(self) -> Path:
        """Results of the stages, in a folder for each stage."""
        return self.own or self.root / "results"

    @property
    def comparison(self) -> Path:
        """Results of the last `sar-search compare --run`: a page, and a folder for each method (`own`)."""
        return self.root / "results" / "compare"

    def compared(self) -> list["Workspace"]:
        """Returns the workspaces of the last comparison's methods, whether the comparison has ended or not."""
        folders = sorted(path.parent for path in self.comparison.glob("*/params.yaml"))
        return [replace(self, own=folder) for folder in folders]

    @property
    def state(self) -> Path:
        """Searches and retraining in progress, and looks at test images, which outlive every stage."""
        return self.anchor / "state"

    @property
    def searches(self) -> Path:
        """Working state of searches, in a folder for each, named by the first 16 digits of its fingerprint."""
        return self.state / "searches"

    @property
    def _written(self) -> tuple[Path, ...]:
        """Folders that the stages write and clean."""
        return self.prepared.parent, self.models, self.results, self.state

    def written_folder(self, path: Path) -> Path | None:
        """Returns the folder with a path, of those that the pipeline writes and cleans; None if it lies in none.

        Args:
            path: The path.
        """
        return next((each for each in self._written if path.resolve().is_relative_to(each.resolve())), None)

    @property
    def stage_status(self) -> Path:
        """File in which a stage records the status with which it fails, because DVC does not pass it on."""
        return self.state / "stage.status"

    @contextmanager
    def locked(self, doing: str, *, lock: str = "stage") -> Iterator[None]:
        """Locks the checkout for one stage, or for the whole pipeline with lock="repro".

        The lock ends with the process, even if that is killed. A stage of an experiment in a temporary copy waits
        for the lock, because no user is there to start it again.

        Args:
            doing: Name of the work, for messages.
            lock: Name of the lock: "stage" or "repro".

        Raises:
            UserError: another process works in this checkout. A stage may have outlived the `dvc` that started it.
        """
        path, work = self.lock_file(lock), "a stage" if lock == "stage" else "the pipeline"
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

    def note_progress(self, stage: str, progress: str) -> None:
        """Records how far this process's stage is, for other processes that find the checkout locked.

        Args:
            stage: Name of the stage.
            progress: How far it is, in words.
        """
        note_holder(self.lock_file("stage"), f"{stage}, {progress}, process {os.getpid()}")

    def lock_file(self, name: str) -> Path:
        """Returns the lock file of one stage ("stage") or of the whole pipeline ("repro")."""
        return self.state / f"{name}.lock"

    def check_writable(self) -> None:
        """Checks that the folders of the stages can be written, without making any folder.

        Raises:
            UserError: a folder can neither be written nor made.
        """
        for folder in self._written:
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
    """Returns the folder with the results of a part of the procedure.

    Args:
        whole: Folder with the results of all images.
        number: Number of the fold, from 1; 0 for the part of all images, whose folder is `whole`.
    """
    return whole / FOLDS / str(number) if number else whole


def find_workspace(start: Path | None = None) -> Workspace:
    """Returns the checkout that contains a folder.

    Args:
        start: The folder; None for the current one.

    Raises:
        UserError: no folder above it has a dvc.yaml and a params.yaml, or its path has a character with which a
            library fails.
    """
    here = (start or Path.cwd()).resolve()
    for root in (here, *here.parents):
        if (root / "dvc.yaml").is_file() and (root / "params.yaml").is_file():
            _check_path(root)
            return Workspace(root, _anchor(root))
    raise UserError(
        f"{here}: no dvc.yaml and params.yaml here or above; run this in a clone of the project's repository, since an "
        "installed package has neither"
    )


def _check_path(root: Path) -> None:
    """Rejects a path with which a library would fail later, with a message that does not name the cause."""
    path = str(root)
    reason = next((reason for sign, reason in UNFIT.items() if sign in path), None)
    if reason is None and not all(sign.isprintable() for sign in path):  # also bytes that are no UTF-8
        reason = "has a character that cannot be printed, which databases and addresses do not accept"
    if reason is not None:
        raise UserError(f"{quote_name(path, 400)}: its path {reason}. Rename the folder, or move the checkout.")


def _anchor(root: Path) -> Path:
    parts = root.parts
    for index in range(len(parts) - 2):
        if parts[index : index + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:index])
    return root
