"""Moving the registry's aliases by hand: challenger to champion."""

from pipeline.config import load_params
from pipeline.track.registry import promote
from pipeline.track.store import Store, prepare_store, resolve_store
from pipeline.workspace import Workspace


def open_store(workspace: Workspace) -> Store:
    """The tracking store of a checkout, checked to answer.

    Raises:
        UserError: it does not.
    """
    store = resolve_store(load_params(workspace.params).tracking.uri, workspace.anchor)
    prepare_store(store)
    return store


def promote_challenger(workspace: Workspace, reason: str | None) -> str:
    """Move the alias `champion` to the challenger's version, with a trail, and say what happened.

    Raises:
        UserError: no challenger, or a store that fails.
    """
    name = load_params(workspace.params).model_name
    promotion = promote(open_store(workspace), name, reason=reason)
    if not promotion.changed:
        return f"models:/{name}@champion is version {promotion.version} already"
    before = f", before it version {promotion.previous}" if promotion.previous else ", the first"
    return f"models:/{name}@champion is version {promotion.version} now{before}"
