"""Hooks are told what has happened, and cannot change it."""

from pathlib import Path

import pytest

from pipeline.config.schema.result_sections import TrackingParams
from pipeline.tracking import hooks
from pipeline.tracking.hooks import FAILED, FINISHED, PROMOTED, notify_on_exit, run_hook

WRITE = "env | grep ^SAR_ | sort > told.txt"


def told(folder: Path) -> list[str]:
    path = folder / "told.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_each_event_has_its_own_command_with_the_facts_in_its_environment(tmp_path: Path) -> None:
    tracking = TrackingParams(on_promoted=WRITE)
    run_hook(tracking, FINISHED, {"version": 3}, tmp_path)
    run_hook(tracking, FAILED, {"version": 3}, tmp_path)
    assert told(tmp_path) == []
    run_hook(tracking, PROMOTED, {"version": 3, "name": 'it\'s "mine" $HOME'}, tmp_path)
    assert told(tmp_path) == ["SAR_EVENT=promoted", 'SAR_NAME=it\'s "mine" $HOME', "SAR_VERSION=3"]


def test_a_search_that_ends_tells_how_with_what_was_learnt_on_the_way(tmp_path: Path) -> None:
    tracking = TrackingParams(on_finished=WRITE, on_failed=WRITE)
    with notify_on_exit(tracking, {"fingerprint": "f1"}, tmp_path) as facts:
        assert told(tmp_path) == []
        facts["best"] = "t0001"
    assert told(tmp_path) == ["SAR_BEST=t0001", "SAR_EVENT=finished", "SAR_FINGERPRINT=f1"]


def test_a_failure_is_told_with_its_reason_and_goes_on(tmp_path: Path) -> None:
    tracking = TrackingParams(on_finished="touch wrong", on_failed=WRITE)
    with pytest.raises(ValueError, match="why"), notify_on_exit(tracking, {}, tmp_path):
        raise ValueError("why\0" + "x" * 10_000)
    assert told(tmp_path)[:1] == ["SAR_EVENT=failed"]
    assert told(tmp_path)[1].startswith("SAR_REASON=whyx")
    assert len(told(tmp_path)[1]) == len("SAR_REASON=") + hooks.LONGEST
    assert not (tmp_path / "wrong").exists()


def test_an_interruption_is_neither(tmp_path: Path) -> None:
    tracking = TrackingParams(on_finished=WRITE, on_failed=WRITE)
    with pytest.raises(KeyboardInterrupt), notify_on_exit(tracking, {}, tmp_path):
        raise KeyboardInterrupt
    assert told(tmp_path) == []


def test_commands_that_fail_or_hang_are_told_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_hook(TrackingParams(on_finished="exit 3"), FINISHED, {}, tmp_path)
    assert capsys.readouterr().err == "warning: tracking.on_finished ended with status 3\n"
    monkeypatch.setattr(hooks, "PATIENCE_S", 0.2)
    run_hook(TrackingParams(on_failed="exec sleep 30"), FAILED, {}, tmp_path)
    assert "tracking.on_failed was not carried out: it took too long" in capsys.readouterr().err
    run_hook(TrackingParams(on_finished="true"), FINISHED, {}, tmp_path / "gone")
    assert "was not carried out" in capsys.readouterr().err
