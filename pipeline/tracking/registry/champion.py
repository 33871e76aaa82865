"""The alias `champion`: moved by promotion and by rollback, with a trail that survives whatever happens in between.

MLflow moves an alias in one write, and has no transaction over an alias and tags. So the alias alone says which version
is champion, and the trail is written round it: a note of what is intended, then the alias, then the note is marked done
and the version gets its tags. What was interrupted leaves the note; readers see by the alias whether it came to be, and
the next move finishes it or calls it abandoned. The notes are tags of the registered model, one a move.

Two moves at once: beside a database file a lock lets in one at a time. On a server, which has none, a note is a claim
too: of two that are open the earlier one wins. Either way the alias is read again before it is moved, and a champion
that is not the expected one stops the move. What remains on a server is the moment between that and the write.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.files.locks import locked
from pipeline.tracking.registry.versions import read_model, require_whole
from pipeline.tracking.store import Store, as_user_error, client, user_name

CHAMPION = "champion"
PREFIX = "sar.champion."
INTENDED, DONE, ABANDONED = "intended", "done", "abandoned"
PROMOTE, ROLLBACK = "promote", "rollback"
Gate = Mapping[str, str | float]
"""What came of each rule, and the figures beside them."""
NO_GATE: Gate = MappingProxyType({})

LOCK_WAIT_S = 20.0
CLAIM_S = 60.0
"""How long an open note on a server counts as that of somebody at work."""

LONGEST_REASON = 1000
"""Characters; MLflow takes 5000 in a tag, which holds the gate's results too."""


@dataclass(frozen=True)
class ChampionChange:
    """A move of `champion`, as the trail has it. before: None where there was no champion; at: UTC, ISO 8601.

    state: "intended" while it is under way or was interrupted, then "done" or "abandoned". gate: what the gate found.
    """

    key: str
    action: str
    before: int | None
    after: int
    by: str
    at: str
    reason: str
    gate: Gate
    state: str


def move_champion(
    store: Store,
    name: str,
    version: int,
    *,
    expected: int | None,
    reason: str | None,
    action: str = PROMOTE,
    gate: Gate = NO_GATE,
) -> ChampionChange:
    """Make a version champion, if `expected` (None: no version) still is, and write down who did it, when and why.

    The result's state is "intended" where the alias has moved and the trail could not be finished.

    Raises:
        UserError: no such model or version, another champion than the expected one, another move under way, or a store
            that fails; where that leaves the alias is said.
    """
    registry = client(store)
    doing = f"moving {CHAMPION} of {name!r} to version {version}"
    with _exclusive(store, doing):
        moves, champion = _read(store, registry, name)
        _require(expected, champion, name)
        _require_no_rival(store, [each for each in moves if each.state == INTENDED], name)
        now = datetime.now(UTC)
        key = f"{PREFIX}{now:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:6]}"
        said = (reason or "")[:LONGEST_REASON]
        at = now.isoformat(timespec="seconds")
        move = ChampionChange(key, action, champion, version, user_name(), at, said, dict(gate), INTENDED)
        with as_user_error(store, doing):
            _finish_open_changes(registry, name, moves, champion)
            registry.get_model_version(name, str(version))
            _write(registry, name, move)
        moves, champion = _read(store, registry, name)
        try:
            _require(expected, champion, name)
            open_before = [each for each in moves if each.state == INTENDED and each.key < key]
            _require_no_rival(store, open_before, name)
        except UserError:
            with as_user_error(store, doing):
                _write(registry, name, replace(move, state=ABANDONED))
            raise
        _set_alias(store, registry, move, name)
        try:
            _finish(registry, name, move)
        except (MlflowException, OSError):
            return move
    return replace(move, state=DONE)


def roll_back(store: Store, name: str, *, reason: str | None) -> ChampionChange:
    """Make the champion that was before the present one champion again.

    Raises:
        UserError: no champion, none before it, one that is deleted or damaged by now; else as `move_champion`.
    """
    moves, champion = history(store, name)
    if champion is None:
        raise UserError(f"{name!r} has no {CHAMPION} to roll back\n  `sar-search promote` makes one")
    earlier = earlier_champion(moves, champion)
    if earlier is None:
        raise UserError(
            f"{name!r} has no {CHAMPION} before version {champion} to go back to\n"
            "  `sar-search models` shows its history"
        )
    require_whole(store, name, earlier, doing=f"moving {CHAMPION} of {name!r} to version {earlier}")
    return move_champion(store, name, earlier, expected=champion, reason=reason, action=ROLLBACK)


def history(store: Store, name: str) -> tuple[list[ChampionChange], int | None]:
    """Every move of `champion`, the oldest first, and which version it is. Only what came to be has the state "done".

    Raises:
        UserError: no such model, or a store that fails.
    """
    moves, champion = _read(store, client(store), name)
    return _with_outcome(moves, champion), champion


def earlier_champion(moves: Sequence[ChampionChange], champion: int) -> int | None:
    """The version that was champion before the present one: a rollback takes back a move, and so does a second one.

    Where the alias was moved by other hands than ours, the champion that the trail knew before that counts.
    """
    before: list[int] = []
    now: int | None = None
    for move in [*(each for each in moves if each.state == DONE), None]:
        start = champion if move is None else move.before
        if start != now and now is not None and start is not None:
            before.append(now)
        if move is None:
            break
        if move.action == ROLLBACK:
            while before and before.pop() != move.after:
                pass
        elif start is not None and start != move.after:
            before.append(start)
        now = move.after
    return before[-1] if before else None


def _read(store: Store, registry: MlflowClient, name: str) -> tuple[list[ChampionChange], int | None]:
    model = read_model(store, registry, name)
    moves = []
    for key, value in sorted(model.tags.items()):
        if key.startswith(PREFIX):
            try:
                moves.append(ChampionChange(**{**json.loads(value), "key": key}))
            except (ValueError, TypeError):
                continue  # not one of ours
    champion = model.aliases.get(CHAMPION)
    return moves, None if champion is None else int(champion)


def _with_outcome(moves: Sequence[ChampionChange], champion: int | None) -> list[ChampionChange]:
    """The moves, those that were left open called done or abandoned: done is the last one, if the alias is there."""
    found = []
    for place, move in enumerate(moves):
        came_to_be = move.after == champion and not any(each.state == DONE for each in moves[place + 1 :])
        found.append(move if move.state != INTENDED else replace(move, state=DONE if came_to_be else ABANDONED))
    return found


def _finish_open_changes(
    registry: MlflowClient, name: str, moves: Sequence[ChampionChange], champion: int | None
) -> None:
    for move, judged in zip(moves, _with_outcome(moves, champion), strict=True):
        if move.state == INTENDED and judged.state == DONE:
            _finish(registry, name, move)
        elif move.state == INTENDED:
            _write(registry, name, judged)


def _write(registry: MlflowClient, name: str, move: ChampionChange) -> None:
    content = {key: value for key, value in asdict(move).items() if key != "key"}
    registry.set_registered_model_tag(name, move.key, json.dumps(content))


def _finish(registry: MlflowClient, name: str, move: ChampionChange) -> None:
    """The tags of the version, then the note, which is open as long as anything is left to do."""
    tags = {"action": move.action, "by": move.by, "at": move.at, "reason": move.reason}
    tags |= {"previous": str(move.before or ""), "gate": json.dumps(dict(move.gate))}
    for key, value in tags.items():
        registry.set_model_version_tag(name, str(move.after), f"sar.promoted.{key}", value)
    _write(registry, name, replace(move, state=DONE))


def _set_alias(store: Store, registry: MlflowClient, move: ChampionChange, name: str) -> None:
    try:
        registry.set_registered_model_alias(name, CHAMPION, str(move.after))
    except (MlflowException, OSError) as error:
        # The write may have been done and only its answer lost.
        try:
            _, champion = _read(store, registry, name)
        except UserError:
            raise UserError(
                f"moving {CHAMPION} of {name!r} failed at {store.shown}\n  {store.reason(error)}\n"
                "  whether it has moved cannot be asked now; `sar-search models` will say"
            ) from None
        if champion != move.after:
            raise UserError(
                f"moving {CHAMPION} of {name!r} failed at {store.shown}; it is as it was\n  {store.reason(error)}"
            ) from None


def _require(expected: int | None, champion: int | None, name: str) -> None:
    if champion != expected:
        was, now = (f"version {each}" if each else "none" for each in (expected, champion))
        raise UserError(
            f"the {CHAMPION} of {name!r} is {now} now and was {was} when this began: somebody else has moved it\n"
            "  look at `sar-search models`, and run the command again if it is still wanted"
        )


def _require_no_rival(store: Store, open_moves: Sequence[ChampionChange], name: str) -> None:
    """Refuse a move beside one that is under way. Beside a database file the lock has seen to that."""
    for each in [] if store.database else open_moves:
        if (datetime.now(UTC) - datetime.fromisoformat(each.at)).total_seconds() < CLAIM_S:
            raise UserError(
                f"{each.by} is moving the {CHAMPION} of {name!r} to version {each.after}, since {each.at}\n"
                f"  wait for it, look at `sar-search models`, and try again after a minute"
            )


@contextmanager
def _exclusive(store: Store, doing: str) -> Iterator[None]:
    if store.database is None:
        yield
        return
    path = Path(f"{store.database}.champion.lock")
    held = f"{doing}: another process holds {path}\n  wait for it or end it, then try again"
    with locked(path, held, lambda reason: f"{doing}: {path} cannot be written ({reason})", wait_s=LOCK_WAIT_S):
        yield
