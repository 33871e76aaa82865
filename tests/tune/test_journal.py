"""Claims about the journal: what was written comes back, a crash costs at most a line, and one process writes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, PRUNED, TrialRecord, read_history

HEADER = {"fingerprint": "abc"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "searches" / "abc" / "journal.jsonl"


def events(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    content = path.read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def write_search(path: Path) -> dict[str, TrialRecord]:
    """Trials and a control in every state, written through a journal in 13 lines; gives what it then holds."""
    with Journal(path, HEADER, gpus=0.5) as journal:
        journal.start(TrialRecord("baseline", None, {"train.lr": 0.1}, role=CONTROL))
        values = {"train.lr": 0.2, "regularizer.spatial_entropy.layers": [0, 2]}
        journal.start(TrialRecord("t0000", 0, values, study="search"))
        journal.report("t0000", 1, {"val/accuracy": 0.5, "val/loss": 0.75, "seconds": 1.5})
        journal.checkpoint("t0000", "ray/start-0/t0000/checkpoint_000000")
        journal.report("baseline", 1, {"val/accuracy": 0.625, "val/loss": math.nan})
        journal.report("t0000", 2, {"val/accuracy": 0.25, "val/loss": 0.5, "seconds": 2.0})
        journal.end("t0000", PRUNED)
        journal.start(TrialRecord("t0001", 1, {"train.lr": 0.3}))
        journal.end("t0001", FAILED, "the worker died\nof hunger")
        journal.start(TrialRecord("t0002", 2, {"train.lr": 0.4}))
        again = TrialRecord("t0000-seed1001", None, values, role=CONFIRMATION, seed=1001, of="t0000")
        journal.start(again)
        return journal.trials


def test_what_an_epoch_used_comes_back_as_it_was_reported_first(path: Path) -> None:
    used = {"system/process_cpu_utilization_percentage": 97.5}
    with Journal(path, HEADER) as journal:
        journal.start(TrialRecord("t0000", 0, {}, study="search"))
        journal.report("t0000", 1, {"val/accuracy": 0.5, "seconds": 2.0}, usage=used)
        journal.report("t0000", 2, {"val/accuracy": 0.6, "seconds": 3.0})
        journal.report("t0000", 2, {"val/accuracy": 0.6, "seconds": 9.0}, usage=used)  # again, after a kill
    record = read_history(path).trials["t0000"]
    assert record.usage == {1: used}
    assert record.timed_usage == [(2.0, used)]
    assert record.epochs[1] == {"val/accuracy": 0.5, "seconds": 2.0}
    assert [("usage" in event) for event in events(path) if event["event"] == "epoch"] == [True, False, True]


def test_ledger_replays_what_was_written(path: Path) -> None:
    written = write_search(path)
    with Journal(path, HEADER) as journal:
        assert list(journal.trials) == ["baseline", "t0000", "t0001", "t0002", "t0000-seed1001"]
        assert repr(journal.trials) == repr(written)  # NaN is not equal to itself
    first = written["t0000"]
    assert first.values == {"train.lr": 0.2, "regularizer.spatial_entropy.layers": [0, 2]}
    assert first.epochs[2] == {"val/accuracy": 0.25, "val/loss": 0.5, "seconds": 2.0}
    assert first.checkpoint == "ray/start-0/t0000/checkpoint_000000"
    assert [written[name].state for name in written] == [None, PRUNED, FAILED, None, None]
    assert (written["baseline"].role, written["baseline"].control) == (CONTROL, True)
    assert (first.role, first.study, first.seed, first.of) == ("trial", "search", None, None)
    again = written["t0000-seed1001"]
    assert (again.role, again.study, again.seed, again.of) == (CONFIRMATION, None, 1001, "t0000")
    assert written["t0001"].reason == "the worker died\nof hunger"


def test_ledger_goes_on_where_it_was_closed(path: Path) -> None:
    write_search(path)
    with Journal(path, HEADER) as journal:
        journal.report("t0002", 1, {"val/accuracy": 1.0})
        journal.end("t0002", COMPLETE)
    kinds = [event["event"] for event in events(path)]
    assert (kinds.count("search"), kinds.count("session")) == (1, 2)
    with Journal(path, HEADER) as journal:
        assert journal.trials["t0002"].state == COMPLETE
        assert journal.trials["t0002"].epochs == {1: {"val/accuracy": 1.0}}
        assert journal.trials["t0000"].state == PRUNED


def test_ledger_begins_with_what_the_search_is(path: Path) -> None:
    with Journal(path, HEADER) as journal:
        assert journal.trials == {}
    first, session = events(path)
    assert (first["event"], first["format"], first["fingerprint"]) == ("search", 2, "abc")
    assert (session["event"], session["gpus"], session["pid"]) == ("session", 0.0, os.getpid())
    assert read_history(path).header == first


def test_every_event_is_on_disk_before_the_call_returns(path: Path) -> None:
    with Journal(path, HEADER) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
        assert [event["event"] for event in events(path)] == ["search", "session", "started"]
        journal.report("t0000", 1, {"val/accuracy": 0.5})
        assert path.read_text().count("\n") == 4


def test_epoch_that_is_reported_again_stays_as_it_was_first_reported(path: Path) -> None:
    with Journal(path, HEADER) as journal:
        journal.start(TrialRecord("t0000", 0, {}))
        for accuracy in (0.5, 0.75):
            journal.report("t0000", 1, {"val/accuracy": accuracy, "seconds": 2.0})
        assert journal.trials["t0000"].metric("val/accuracy") == 0.5
    with Journal(path, HEADER) as journal:
        assert journal.trials["t0000"].epochs == {1: {"val/accuracy": 0.5, "seconds": 2.0}}
        assert journal.trials["t0000"].seconds == 2.0


def test_last_line_that_a_crash_tore_is_dropped_and_cut_off(path: Path) -> None:
    write_search(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "ended", "trial": "t00')
    with Journal(path, HEADER) as journal:
        assert path.read_bytes().startswith(whole + b'{"event": "session"')
        journal.end("t0002", COMPLETE)
    assert [event["event"] for event in events(path)[13:]] == ["session", "ended"]


def test_reader_passes_over_a_torn_line_and_leaves_the_file_as_it_is(path: Path) -> None:
    write_search(path)
    torn = path.read_bytes() + b'{"event": "ended", "trial": "t0002"'
    path.write_bytes(torn)
    assert read_history(path).trials["t0002"].state is None
    assert path.read_bytes() == torn
    assert read_history(path, repair=True).trials["t0002"].state is None
    assert path.read_bytes() == torn[: torn.rfind(b"\n") + 1]


@pytest.mark.parametrize("lost", [1, 20])
def test_line_without_its_end_is_dropped_however_much_of_it_is_there(path: Path, lost: int) -> None:
    write_search(path)
    path.write_bytes(path.read_bytes()[:-lost])
    with Journal(path, HEADER) as journal:
        assert list(journal.trials) == ["baseline", "t0000", "t0001", "t0002"]


def test_ledger_whose_only_line_is_torn_begins_anew(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"event": "sea')
    with Journal(path, HEADER) as journal:
        assert journal.trials == {}
    assert events(path)[0]["event"] == "search"


@pytest.mark.parametrize("broken", [b'{"event": "epo', b"", b"[1]", b"{}", b"null", b"\xff\x00", b'"event"'])
def test_broken_line_in_the_middle_is_told_with_its_number(path: Path, broken: bytes) -> None:
    write_search(path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], broken, *lines[4:]]) + b"\n")
    with pytest.raises(UserError, match=r"journal\.jsonl: line 4 is broken\. Repair that line if .* or move .* away"):
        read_history(path)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ('{"event": "search", "format": 1, "time": 1.5}', r"format 1, not 2"),
        ('{"event": "search", "format": 3}', r"format 3, not 2"),
        ('{"event": "search"}', r"format unknown, not 2"),
    ],
)
def test_ledger_of_another_format_is_told_and_left_alone(path: Path, first: str, said: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(first + "\n")
    for opened in (lambda: Journal(path, HEADER), lambda: read_history(path)):
        with pytest.raises(UserError, match=rf"written by another version of sar-search \({said}\)\. Move .* away"):
            opened()
    assert path.read_text() == first + "\n"


@pytest.mark.parametrize("first", ['{"event": "session", "gpus": 0}', '{"event": "started", "trial": "t0000"}', "[]"])
def test_ledger_that_does_not_begin_with_what_the_search_is_is_told(path: Path, first: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(first + "\n")
    with pytest.raises(UserError, match="line 1 is broken"):
        Journal(path, HEADER)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "ended", "trial": "t0009", "state": "complete"}',
        '{"event": "checkpoint", "trial": "t0009", "path": "p"}',
        '{"event": "epoch"}',
        '{"event": "epoch", "trial": "t0000", "epoch": Infinity, "metrics": {}}',
        '{"event": "epoch", "trial": "t0000", "epoch": "two", "metrics": {}}',
        '{"event": "epoch", "trial": "t0000", "epoch": 2, "metrics": 5}',
        '{"event": "epoch", "trial": "t0000", "epoch": 2, "metrics": {}, "at": null}',
        '{"event": "started", "trial": "t0009", "number": 9, "values": {}}',
        '{"event": "session"}',
        '{"event": "accepted", "code": {}}',
        '{"event": "halted", "trial": "t0000"}',
        '{"event": "search", "format": 2}',
        '{"event": ["ended"], "trial": "t0000"}',
    ],
)
def test_line_that_is_no_event_of_a_known_trial_is_told(path: Path, line: str) -> None:
    write_search(path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="line 14 is broken"):
        Journal(path, HEADER)
    # The lock goes too, so that the mended journal can be opened by this process.
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:13]) + b"\n")
    Journal(path, HEADER).close()


def test_second_writer_is_refused_while_the_first_lives(path: Path) -> None:
    with Journal(path, HEADER) as journal:
        with pytest.raises(UserError, match="another process is running this search"):
            Journal(path, HEADER)
        journal.start(TrialRecord("t0000", 0, {}))
    with Journal(path, HEADER) as journal:
        assert list(journal.trials) == ["t0000"]


def test_writer_of_another_process_is_noticed_too(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.errors import UserError; "
        "from pipeline.tune.journal.journal import Journal\n"
        "try: Journal(Path(sys.argv[1]), {})\n"
        "except UserError as error: print(error)"
    )
    with Journal(path, HEADER):
        said = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "another process is running this search" in said.stdout, said.stderr


def test_ledger_that_is_not_there_has_nothing(path: Path) -> None:
    history = read_history(path)
    assert (history.header, history.trials, history.reports, history.sessions) == ({}, {}, [], 0)
    assert not path.parent.exists()


def test_record_tells_what_is_to_be_known_of_a_trial() -> None:
    record = TrialRecord("t0003", 3, {}, epochs={2: {"a": 2.0, "seconds": 1.0}, 1: {"a": 1.0, "b": 3.0, "seconds": 4}})
    assert record.last_epoch == 2
    assert record.metric("a") == 2.0
    assert math.isnan(record.metric("b"))
    assert record.seconds == 5.0
    assert not record.control
    fresh = TrialRecord("baseline", None, {}, role=CONTROL)
    assert fresh.control
    assert not TrialRecord("baseline-seed1001", None, {}, role=CONFIRMATION, of="baseline").control
    assert (fresh.last_epoch, fresh.seconds) == (0, 0)
    assert math.isnan(fresh.metric("a"))
