"""Whether the store still has what `results/` says was registered: the version, its files, the alias `challenger`.

DVC sees files alone. A store that was moved, emptied or named anew, a version that was deleted, an alias that another
experiment has taken: `results/` then shows one model, and the registry would promote another, or none.
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
"""Registers what is in models/ and results/ again, and makes it the challenger; trains nothing."""


UNREADABLE = "does not say which version was registered"


@dataclass(frozen=True)
class RegisteredVersion:
    """What `results/register/registered.json` says, and how that stands in the store of params.yaml."""

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
        """What the store lacks, in words; "" if nothing."""
        if not self.status.exists:
            return f"{self.store.shown} has no {self.model} such as results/ is of"
        if self.status.fault:
            return f"the files of {self.model} are {self.status.fault} where {self.store.shown} keeps them"
        if self.status.challenger is None:
            return f"no version of {self.name} is called challenger in {self.store.shown}"
        return ""

    @property
    def other(self) -> int | None:
        """The version that is challenger in place of this one."""
        return self.status.challenger if self.status.challenger not in (None, self.version) else None

    @property
    def other_words(self) -> str:
        made_by = f" ({self.status.made_by})" if self.status.made_by else ""
        return f"the registry's challenger is version {self.other}{made_by}, not {self.model}, which results/ is of"

    def of_this_checkout(self, workspace: Workspace) -> bool:
        """Whether the store is a file in this checkout, so that nobody else moves its aliases."""
        return self.store.database is not None and self.store.database.is_relative_to(workspace.anchor)


def registered_json(workspace: Workspace) -> Registration | None:
    """The content of registered.json; None where nothing has been registered from here, or the file is not whole."""
    try:
        return Registration.read(_note(workspace).parent)
    except UserError:
        return None


def _note(workspace: Workspace) -> Path:
    return workspace.results / "register" / Registration.FILE


def find_registered_version(workspace: Workspace, params: Params | None = None) -> RegisteredVersion | None:
    """What results/ says was registered, and how it stands; None where nothing has been.

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
    """For `results`: what of the registry is in agreement with it, and what to type where it is not."""
    try:
        found = find_registered_version(workspace)
    except UserError as error:
        return f"cannot be asked whether it still has what was registered: {error}"
    if found is None:
        return (
            f"{_note(workspace)} {UNREADABLE}: `sar-search repro` registers it again from models/ (nothing is trained)"
        )
    if found.lost:
        return f"{found.lost}: `sar-search repro` registers it again from models/ (nothing is trained)"
    if found.other:
        return (
            f"models:/{found.name}/{found.version}; {found.other_words}: `{REPAIR}` makes it the challenger again, "
            f"`sar-search promote --version {found.version}` judges it as it is"
        )
    return f"models:/{found.name}@challenger, version {found.version}: promote it with `sar-search promote`"


def advice(workspace: Workspace) -> str:
    """Why `register` should be done again although DVC takes it for done, in words; "" where it should not.

    Where several people share a server, an alias that another of them has moved stays where it is.

    Raises:
        UserError: the store does not answer.
    """
    found = find_registered_version(workspace)
    if found is None:
        return f"{_note(workspace)} {UNREADABLE}" if _note(workspace).exists() else ""
    if found.other and not found.lost and found.of_this_checkout(workspace):
        return found.other_words
    return found.lost
