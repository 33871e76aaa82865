"""Checks that the store still has the registered version of `results/`, with its files and the alias `challenger`.

DVC tracks files alone. A store may have been moved, emptied or renamed, a version deleted, or the alias moved by
another experiment. `results/` then describes one model, while the registry would promote another one, or none.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.registration import Registration
from pipeline.config import Params, load_params
from pipeline.errors import UserError, single_item_command
from pipeline.tracking.registry.version_status import VersionStatus, version_status
from pipeline.tracking.store import Store, resolve_store
from pipeline.workspace import Workspace

REPAIR = single_item_command("register")
"""Command that registers the content of models/ and results/ again as the challenger, without training."""

AGAIN = "registers it again from models/ (nothing is trained)"
UNREADABLE = "does not say which version was registered"


@dataclass(frozen=True)
class RegisteredVersion:
    """The version in `results/register/registered.json`, and its status in the store of params.yaml."""

    name: str
    version: int
    model_hash: str
    store: Store
    status: VersionStatus

    @property
    def model(self) -> str:
        return f"version {self.version} of {self.name}"

    @property
    def lost(self) -> str:
        """Description of the part that is missing in the store; "" if none is."""
        if not self.status.exists:
            return f"{self.store.shown} has no {self.model} with the content of results/"
        if self.status.fault:
            return f"the files of {self.model} are {self.status.fault} where {self.store.shown} stores them"
        if self.status.challenger is None:
            return f"no version of {self.name} has the alias challenger in {self.store.shown}"
        return ""

    @property
    def other(self) -> int | None:
        """The version that is challenger in place of this one; None if there is none."""
        return self.status.challenger if self.status.challenger not in (None, self.version) else None

    @property
    def other_words(self) -> str:
        made_by = f" ({self.status.made_by})" if self.status.made_by else ""
        return (
            f"the registry's challenger is version {self.other}{made_by}, not {self.model}, to which results/ belongs"
        )

    def of_this_checkout(self, workspace: Workspace) -> bool:
        """Returns whether the store is a file in this checkout, so that no other user moves its aliases."""
        return self.store.database is not None and self.store.database.is_relative_to(workspace.anchor)


def registered_json(workspace: Workspace) -> Registration | None:
    """Returns the content of registered.json; None if this checkout has registered nothing or the file is invalid."""
    try:
        return Registration.read(_note(workspace).parent)
    except UserError:
        return None


def _note(workspace: Workspace) -> Path:
    return workspace.results / "register" / Registration.FILE


def find_registered_version(workspace: Workspace, params: Params | None = None) -> RegisteredVersion | None:
    """Returns the registered version of results/ and its status; None if there is none.

    Raises:
        UserError: params.yaml is wrong, or the store does not answer.
    """
    content = registered_json(workspace)
    if content is None:
        return None
    store = resolve_store((params or load_params(workspace.params)).tracking.uri, workspace.anchor)
    status = version_status(store, content.name, content.version, content.model_hash)
    return RegisteredVersion(content.name, content.version, content.model_hash, store, status)


def describe_registry(workspace: Workspace) -> str:
    """Describes for `results` whether the registry agrees with results/, and what to type if it does not.

    Args:
        workspace: Workspace with the results.
    """
    try:
        found = find_registered_version(workspace)
    except UserError as error:
        return f"cannot be asked whether it still has what was registered: {error}"
    if found is None:
        return f"{_note(workspace)} {UNREADABLE}: `sar-search repro` {AGAIN}"
    if found.lost:
        return f"{found.lost}: `sar-search repro` {AGAIN}"
    if found.other:
        return (
            f"models:/{found.name}/{found.version}; {found.other_words}: `{REPAIR}` makes it the challenger again, "
            f"`sar-search promote --version {found.version}` judges it as it is"
        )
    if found.status.champion == found.version:
        return f"models:/{found.name}@champion, version {found.version}: promoted, `sar-search predict` uses it"
    return f"models:/{found.name}@challenger, version {found.version}: promote it with `sar-search promote`"


def advice(workspace: Workspace) -> str:
    """Returns the reason to run `register` again although DVC regards it as up to date; "" if there is none.

    An alias that was moved on a shared server is no reason, because another user may have moved it.

    Args:
        workspace: Workspace with the results.

    Raises:
        UserError: the store does not answer.
    """
    found = find_registered_version(workspace)
    if found is None:
        return f"{_note(workspace)} {UNREADABLE}" if _note(workspace).exists() else ""
    if found.other and not found.lost and found.of_this_checkout(workspace):
        return found.other_words
    return found.lost
