"""The alias `champion`, moved by promotion and rollback, with a history that survives an interruption at any point.

MLflow moves an alias in one write, and has no transaction over an alias and tags. Therefore the alias alone
determines which version is champion. The history is written around it in three steps. First a note of the
intended move is written, as a tag of the registered model. Then the alias is moved. Finally the version gets
its tags, and the note is marked as done. An interrupted move leaves its note as intended. Readers see by the
alias whether the move took effect, and the next move marks the note as done or abandoned.

Two moves may run at the same time. With a database file, a lock admits one at a time. A server has no lock,
so a note is also a claim: of two open notes, the earlier one wins. In both cases the alias is read again
before it is moved, and an unexpected champion stops the move. On a server, a race remains possible in the
moment between this reading and the write.
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
"""Result of each rule of the gate, and further figures, by name."""
NO_GATE: Gate = MappingProxyType({})

LOCK_WAIT_S = 20.0
CLAIM_S = 60.0
"""Seconds for which an open note on a server counts as a move in progress."""

LONGEST_REASON = 1000
"""The most characters of a reason. MLflow accepts 5000 in a tag, which also has the gate's results."""


@dataclass(frozen=True)
class ChampionChange:
    """A move of the alias `champion`, as the history stores it.

    Attributes:
        key: key of the move's tag.
        action: "promote" or "rollback".
        before: the champion before; None: there was none.
        after: the champion after.
        by: name of the user: the account of a server, else the login of the machine.
        at: UTC, ISO 8601.
        reason: the user's reason; "" for none.
        gate: result of each rule of the gate, and figures.
        state: "intended" during the move or after an interruption, then "done" or "abandoned".
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
    """Makes a version champion if the champion is still the expected one, and records who did it, when and why.

    Args:
        store: the tracking store.
        name: name of the registered model.
        version: the new champion.
        expected: the version that must be champion now; None: no version is.
        reason: the user's reason; None: none.
        action: PROMOTE or ROLLBACK.
        gate: result of each rule of the gate, and figures.

    Returns:
        The move. Its state is "intended" if the alias was moved and the history could not be completed.

    Raises:
        UserError: no such model or version, an unexpected champion, another move in progress, or a store that
            fails. The message says where the alias is.
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
        move = ChampionChange(key, action, champion, version, user_name(store), at, said, dict(gate), INTENDED)
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
    """Makes the previous champion champion again.

    Args:
        store: the tracking store.
        name: name of the registered model.
        reason: the user's reason; None: none.

    Raises:
        UserError: no champion, none before it, one that has been deleted or damaged, or an error of `move_champion`.
    """
    moves, champion = history(store, name)
    if champion is None:
        raise UserError(f"{name!r} has no {CHAMPION} to roll back\n  `sar-search promote` makes one")
    earlier = earlier_champion(moves, champion)
    if earlier is None:
        undone = next((move.before for move in reversed(moves) if move.action == ROLLBACK and move.state == DONE), None)
        hint = "`sar-search models` shows its history"
        if undone not in (None, champion):
            hint = (
                f"version {undone} was rolled back itself; to make it champion again: `sar-search promote --version "
                f"{undone}`, through the gate"
            )
        raise UserError(f"{name!r} has no {CHAMPION} before version {champion} to go back to\n  {hint}")
    require_whole(store, name, earlier, doing=f"moving {CHAMPION} of {name!r} to version {earlier}")
    return move_champion(store, name, earlier, expected=champion, reason=reason, action=ROLLBACK)


def history(store: Store, name: str) -> tuple[list[ChampionChange], int | None]:
    """Returns every move of `champion`, the oldest first, and the present champion, or None.

    Only moves that took effect have the state "done".

    Args:
        store: the tracking store.
        name: name of the registered model.

    Raises:
        UserError: no such model, or a store that fails.
    """
    moves, champion = _read(store, client(store), name)
    return _with_outcome(moves, champion), champion


def earlier_champion(moves: Sequence[ChampionChange], champion: int) -> int | None:
    """Returns the version that was champion before the present one, or None.

    A rollback undoes a move, and a second rollback undoes the move before it. If the alias was moved by other
    software, the last champion in the history counts as the one before.
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
    """Returns the moves in the history, the oldest first, as they are stored, and the present champion, or None.

    Args:
        store: the tracking store.
        registry: its client.
        name: name of the registered model.

    Raises:
        UserError: no such model, or a store that fails.
    """
    model = read_model(store, registry, name)
    moves = []
    for key, value in sorted(model.tags.items()):
        if key.startswith(PREFIX):
            try:
                moves.append(ChampionChange(**{**json.loads(value), "key": key}))
            except (ValueError, TypeError):
                continue  # the tag is not one of ours
    champion = model.aliases.get(CHAMPION)
    return moves, None if champion is None else int(champion)


def _with_outcome(moves: Sequence[ChampionChange], champion: int | None) -> list[ChampionChange]:
    """Returns the moves with intended ones replaced by done or abandoned ones.

    An intended move is done if its version is champion and no later move is done.
    """
    found = []
    for place, move in enumerate(moves):
        came_to_be = move.after == champion and not any(each.state == DONE for each in moves[place + 1 :])
        found.append(move if move.state != INTENDED else replace(move, state=DONE if came_to_be else ABANDONED))
    return found


def _finish_open_changes(
    registry: MlflowClient, name: str, moves: Sequence[ChampionChange], champion: int | None
) -> None:
    """Completes or abandons the moves that were interrupted.

    Args:
        registry: client of the store.
        name: name of the registered model.
        moves: all moves, the oldest first.
        champion: the present champion; None: there is none.
    """
    for move, judged in zip(moves, _with_outcome(moves, champion), strict=True):
        if move.state == INTENDED and judged.state == DONE:
            _finish(registry, name, move)
        elif move.state == INTENDED:
            _write(registry, name, judged)


def _write(registry: MlflowClient, name: str, move: ChampionChange) -> None:
    """Writes the note of a move, replacing an earlier one.

    Args:
        registry: client of the store.
        name: name of the registered model.
        move: the move.
    """
    content = {key: value for key, value in asdict(move).items() if key != "key"}
    registry.set_registered_model_tag(name, move.key, json.dumps(content))


def _finish(registry: MlflowClient, name: str, move: ChampionChange) -> None:
    """Writes the tags of the version, then marks the note as done, so that the note stays open while any tag
    is missing.

    Args:
        registry: client of the store.
        name: name of the registered model.
        move: the move.
    """
    tags = {"action": move.action, "by": move.by, "at": move.at, "reason": move.reason}
    tags |= {"previous": str(move.before or ""), "gate": json.dumps(dict(move.gate))}
    for key, value in tags.items():
        registry.set_model_version_tag(name, str(move.after), f"sar.promoted.{key}", value)
    _write(registry, name, replace(move, state=DONE))


def _set_alias(store: Store, registry: MlflowClient, move: ChampionChange, name: str) -> None:
    """Moves the alias.

    Args:
        store: the tracking store.
        registry: its client.
        move: the move.
        name: name of the registered model.

    Raises:
        UserError: the alias was not moved, or whether it was is unknown.
    """
    try:
        registry.set_registered_model_alias(name, CHAMPION, str(move.after))
    except (MlflowException, OSError) as error:
        # The alias may have been moved although the response was lost.
        try:
            _, champion = _read(store, registry, name)
        except UserError:
            raise UserError(
                f"moving {CHAMPION} of {name!r} failed at {store.shown}\n  {store.reason(error)}\n"
                "  whether it has moved cannot be asked now; `sar-search models` will say"
            ) from None
        if champion != move.after:
            raise UserError(
                f"moving {CHAMPION} of {name!r} failed at {store.shown}; it was not moved\n  {store.reason(error)}"
            ) from None


def _require(expected: int | None, champion: int | None, name: str) -> None:
    """Checks that the champion is the expected one.

    Args:
        expected: the expected champion; None: none.
        champion: the present champion; None: none.
        name: name of the registered model, for the message.

    Raises:
        UserError: it is another one.
    """
    if champion != expected:
        was, now = (f"version {each}" if each else "none" for each in (expected, champion))
        raise UserError(
            f"the {CHAMPION} of {name!r} is {now} now and was {was} when this began: somebody else has moved it\n"
            "  look at `sar-search models`, and run the command again if it is still wanted"
        )


def _require_no_rival(store: Store, open_moves: Sequence[ChampionChange], name: str) -> None:
    """Checks that no other move is in progress. With a database file, the lock has ensured this already.

    Args:
        store: the tracking store.
        open_moves: moves that are neither done nor abandoned.
        name: name of the registered model, for the message.

    Raises:
        UserError: a move that began less than CLAIM_S ago is open.
    """
    for each in [] if store.database else open_moves:
        if (datetime.now(UTC) - datetime.fromisoformat(each.at)).total_seconds() < CLAIM_S:
            raise UserError(
                f"{each.by} is moving the {CHAMPION} of {name!r} to version {each.after}, since {each.at}\n"
                f"  wait for it, look at `sar-search models`, and try again after a minute"
            )


@contextmanager
def _exclusive(store: Store, doing: str) -> Iterator[None]:
    """Holds the lock of a database file inside the `with` block; a server has none."""
    if store.database is None:
        yield
        return
    path = Path(f"{store.database}.champion.lock")
    held = f"{doing}: another process holds {path}\n  wait for it or end it, then try again"
    with locked(path, held, lambda reason: f"{doing}: {path} cannot be written ({reason})", wait_s=LOCK_WAIT_S):
        yield
