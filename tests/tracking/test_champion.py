"""The alias `champion` and its trail: kept whole through rivals, lost registries and hands that move it elsewhere."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.files import locks
from pipeline.tracking.registry import champion
from pipeline.tracking.registry.champion import ChampionChange, earlier_champion, history, move_champion, roll_back
from pipeline.tracking.registry.versions import versions
from pipeline.tracking.store import Store, client

FATAL = (*range(1, 9), 11, 19, 20, 21, 22)
"""Calls of MLflow's client, its own calls of itself with them, at which a registry goes away during a move: the sixth
moves the alias, before the last the note is marked done, and the last is none."""


@pytest.fixture
def name(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> str:
    """A model with four versions, no champion and a name that no other test uses."""
    made = str(request.node.name).removeprefix("test_").replace("[", "-").replace("]", "")
    registry = client(store)
    registry.create_registered_model(made)
    for _ in range(4):
        registry.create_model_version(made, str(tmp_path))
    return made


def now(store: Store, name: str) -> int | None:
    return history(store, name)[1]


def told(store: Store, name: str) -> list[tuple[int | None, int, str]]:
    return [(each.before, each.after, each.state) for each in history(store, name)[0]]


def notes(store: Store, name: str) -> list[str]:
    return [key for key in client(store).get_registered_model(name).tags if key.startswith("sar.champion.")]


def test_a_move_leaves_who_when_why_and_what_was_before(store: Store, name: str) -> None:
    move_champion(store, name, 1, expected=None, reason="better by 2 points", gate={"accuracy": "passed"})
    move_champion(store, name, 2, expected=1, reason=None)
    one, two = versions(store, name)[:2]
    assert (one.aliases, two.aliases) == ((), ("champion",))
    assert one.tags["sar.promoted.reason"] == "better by 2 points"
    assert one.tags["sar.promoted.gate"] == '{"accuracy": "passed"}'
    assert two.tags["sar.promoted.previous"] == "1"
    assert two.tags["sar.promoted.by"]
    assert datetime.fromisoformat(two.tags["sar.promoted.at"]).utcoffset() == timedelta(0)
    assert told(store, name) == [(None, 1, "done"), (1, 2, "done")]
    assert history(store, name)[0][0].gate == {"accuracy": "passed"}


def test_a_rollback_goes_back_a_move_at_a_time_and_keeps_the_trail(store: Store, name: str) -> None:
    for version in (1, 2, 3):
        move_champion(store, name, version, expected=now(store, name), reason=None)
    assert roll_back(store, name, reason="worse in production").after == 2
    assert versions(store, name)[1].tags["sar.promoted.action"] == "rollback"
    assert roll_back(store, name, reason=None).after == 1
    with pytest.raises(
        UserError, match=r"no champion before version 1 .*\n  version 2 was rolled back itself.*--version 2`"
    ):
        roll_back(store, name, reason=None)
    move_champion(store, name, 4, expected=1, reason=None)
    assert roll_back(store, name, reason=None).after == 1
    assert len(told(store, name)) == 7


def test_a_rollback_knows_a_champion_that_was_made_by_other_hands(store: Store, name: str) -> None:
    move_champion(store, name, 1, expected=None, reason=None)
    move_champion(store, name, 2, expected=1, reason=None)
    client(store).set_registered_model_alias(name, "champion", "4")
    assert roll_back(store, name, reason=None).after == 2
    assert roll_back(store, name, reason=None).after == 1


def test_without_a_champion_or_without_one_before_it_there_is_no_rollback(store: Store, name: str) -> None:
    with pytest.raises(UserError, match="no champion to roll back"):
        roll_back(store, name, reason=None)
    move_champion(store, name, 1, expected=None, reason=None)
    with pytest.raises(UserError, match=r"no champion before version 1 .*\n  `sar-search models` shows"):
        roll_back(store, name, reason=None)


def test_a_version_that_is_gone_cannot_be_rolled_back_to(store: Store, name: str) -> None:
    for version in (1, 2):
        move_champion(store, name, version, expected=now(store, name), reason=None)
    client(store).delete_model_version(name, "1")
    with pytest.raises(UserError, match=r"moving champion of .* to version 1 failed"):
        roll_back(store, name, reason=None)
    assert now(store, name) == 2
    assert told(store, name) == [(None, 1, "done"), (1, 2, "done")]


def test_a_champion_that_is_not_the_expected_one_stops_the_move(store: Store, name: str) -> None:
    move_champion(store, name, 1, expected=None, reason=None)
    with pytest.raises(UserError, match="is version 1 now and was none when this began"):
        move_champion(store, name, 2, expected=None, reason=None)
    assert told(store, name) == [(None, 1, "done")]


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(store: Store, name: str) -> None:
    start, said = threading.Barrier(2), []

    def go(version: int) -> None:
        start.wait()
        try:
            said.append(move_champion(store, name, version, expected=None, reason=None).after)
        except UserError as error:
            said.append(str(error))

    both = [threading.Thread(target=go, args=(version,)) for version in (1, 2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    (winner,) = [each for each in said if isinstance(each, int)]
    (loser,) = [each for each in said if isinstance(each, str)]
    assert f"is version {winner} now and was none" in loser
    assert told(store, name) == [(None, winner, "done")]


def test_a_lock_that_is_held_is_told(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(champion, "LOCK_WAIT_S", 0.05)
    with champion._exclusive(store, "here"), pytest.raises(UserError, match=r"another process holds .*champion.lock"):
        move_champion(store, name, 1, expected=None, reason=None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is taken for a server, beside which no lock can lie."""
    monkeypatch.setattr(Store, "database", property(lambda store: None))


class Interrupted(MlflowClient):
    """Does something of its own before a call of the client, or fails in it."""

    def __init__(self, store: Store, before: Callable[[str], None]) -> None:
        super().__init__(tracking_uri=store.uri, registry_uri=store.uri)
        self.before = before

    def __getattribute__(self, called: str) -> Any:
        found = super().__getattribute__(called)
        if called.startswith(("get_", "set_")) and callable(found):
            super().__getattribute__("before")(called)
        return found


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("first", ["set_registered_model_tag", "set_registered_model_alias"])
def test_on_a_server_the_earlier_claim_wins(
    store: Store, name: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def rival(called: str) -> None:
        if called == first and not begun:
            begun.append(called)
            if first == "set_registered_model_tag":
                move_champion(store, name, 2, expected=None, reason=None)
            else:
                with pytest.raises(UserError, match=r"is moving the champion of .* to version 1"):
                    move_champion(store, name, 2, expected=None, reason=None)

    monkeypatch.setattr(champion, "client", lambda store: Interrupted(store, rival))
    if first == "set_registered_model_tag":
        with pytest.raises(UserError, match="is version 2 now and was none"):
            move_champion(store, name, 1, expected=None, reason=None)
        assert sorted(told(store, name)) == [(None, 1, "abandoned"), (None, 2, "done")]
    else:
        move_champion(store, name, 1, expected=None, reason=None)
        assert told(store, name) == [(None, 1, "done")]


@pytest.mark.usefixtures("server")
def test_a_claim_that_is_written_between_two_looks_is_seen(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[ChampionChange] = []

    def rival(called: str) -> None:
        if called == "get_model_version" and not done:
            at = datetime.now(UTC) - timedelta(seconds=1)
            key = f"{champion.PREFIX}{at:%Y%m%dT%H%M%S.%fZ}-0"
            done.append(ChampionChange(key, "promote", None, 3, "ann", at.isoformat(), "", {}, "intended"))
            champion._write(client(store), name, done[0])

    monkeypatch.setattr(champion, "client", lambda store: Interrupted(store, rival))
    with pytest.raises(UserError, match=r"ann is moving the champion .* to version 3"):
        move_champion(store, name, 1, expected=None, reason=None)
    assert now(store, name) is None


@pytest.mark.usefixtures("server")
def test_a_claim_of_one_who_died_is_given_up_after_a_while(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime.now(UTC)
    dead = ChampionChange(f"{champion.PREFIX}0", "promote", None, 3, "ann", at.isoformat(), "", {}, "intended")
    champion._write(client(store), name, dead)
    with pytest.raises(UserError, match="ann is moving"):
        move_champion(store, name, 1, expected=None, reason=None)
    monkeypatch.setattr(champion, "CLAIM_S", 0.0)
    move_champion(store, name, 1, expected=None, reason=None)
    assert told(store, name) == [(None, 3, "abandoned"), (None, 1, "done")]


@pytest.mark.parametrize(("fatal", "answer_lost"), [*((call, False) for call in FATAL), (6, True)])
def test_a_registry_that_goes_away_in_the_middle_leaves_the_champion_before_or_after(
    store: Store, name: str, fatal: int, answer_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_champion(store, name, 1, expected=None, reason="first")
    calls = 0

    def fail(called: str) -> None:
        nonlocal calls
        calls += 1
        if answer_lost and calls == fatal and called == "set_registered_model_alias":
            client(store).set_registered_model_alias(name, "champion", "2")
        if calls >= fatal:
            raise MlflowException("no answer")

    said, state = "", None
    with monkeypatch.context() as away:
        away.setattr(champion, "client", lambda store: Interrupted(store, fail))
        try:
            state = move_champion(store, name, 2, expected=1, reason="second").state
        except UserError as error:
            said = str(error)
    moves, after = history(store, name)
    if state is None:
        assert "no answer" in said
        assert after == 1 or "cannot be asked now" in said
    else:
        assert (after, state == "done") == (2, calls < fatal)
    assert [each.after for each in moves if each.state == "done"] == ([1, 2] if after == 2 else [1])
    assert not [each for each in moves if each.state == "intended"]
    if after == 1:
        move_champion(store, name, 2, expected=1, reason="again")
    move_champion(store, name, 3, expected=2, reason="third")
    assert versions(store, name)[1].tags["sar.promoted.previous"] == "1"
    assert [each.after for each in history(store, name)[0] if each.state == "done"] == [1, 2, 3]
    raw = client(store).get_registered_model(name).tags
    assert not [key for key in notes(store, name) if '"intended"' in raw[key]]
    assert roll_back(store, name, reason=None).after == 2


def test_all_calls_of_a_move_are_among_those_that_fail_above(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    monkeypatch.setattr(champion, "client", lambda store: Interrupted(store, called.append))
    move_champion(store, name, 1, expected=None, reason=None)
    assert called[0] == "get_registered_model"
    assert called.index("set_registered_model_alias") == 6 - 1
    assert len(called) == FATAL[-1] - 1


def test_a_registry_that_cannot_be_written_is_told(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self, *arguments: Any) -> None: ...

        def acquire(self, timeout: float) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locks, "FileLock", Refused)
    with pytest.raises(UserError, match=r"champion.lock cannot be written \(Permission denied\)"):
        move_champion(store, name, 1, expected=None, reason=None)


def test_tags_that_are_no_moves_are_passed_over(store: Store, name: str) -> None:
    registry = client(store)
    registry.set_registered_model_tag(name, "sar.champion.1", "none -> 1 by ann")
    registry.set_registered_model_tag(name, "sar.champion.2", '{"a": 1}')
    registry.set_registered_model_tag(name, "sar.champion.3", "7")
    assert told(store, name) == []


def test_a_model_that_there_is_not_is_told(store: Store) -> None:
    with pytest.raises(UserError, match="has no model 'nobody'"):
        history(store, "nobody")


def test_a_trail_without_a_first_champion_gives_none_before() -> None:
    assert earlier_champion([], 1) is None


def test_a_very_long_reason_fits(store: Store, name: str, tmp_path: Path) -> None:
    move_champion(store, name, 1, expected=None, reason="x" * 20_000)
    assert len(history(store, name)[0][0].reason) == champion.LONGEST_REASON
