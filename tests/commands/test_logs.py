"""Claims about what is said of a trial, also while it runs."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from support.search_state import (
    content_of,
    ledger_folder,
    make_workspace,
    open_search,
    other,
    run,
    set_params,
    write_search,
)

from pipeline.commands.logs import describe_trial
from pipeline.errors import UserError
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import PRUNED, TrialRecord
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


def said(workspace: Workspace, name: str, search: str | None = None) -> str:
    return "\n".join(describe_trial(workspace, name, search=search))


def test_trial_is_told_with_setting_seed_checkpoint_and_epochs(workspace: Workspace) -> None:
    folder = write_search(workspace)
    text = said(workspace, "t0000")
    assert f"t0000, trial, of search {folder.name[:8]} (digits)" in text
    assert "regularizer.spatial_entropy.weight 0.25" in text
    assert "seed          0" in text
    assert "ran in full, 2 epochs" in text
    assert str(folder / "ray" / "start-0" / "t0000" / "checkpoint_000001") in text
    lines = text.splitlines()
    assert lines[-3].split() == ["epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "seconds"]
    assert lines[-1].split() == ["2", "2.0000", "0.2500", "1.5000", "0.7500", "3.0"]
    assert max(map(len, lines[-3:])) <= 80


def test_what_a_trial_used_is_told_where_it_was_measured(workspace: Workspace) -> None:
    used = {"system/process_cpu_utilization_percentage": 97.5, "system/data_wait_percentage": 4.0}
    with open_search(workspace) as journal:
        journal.start(TrialRecord("t0000", 0, {}, study="search"))
        journal.report("t0000", 1, {"val/accuracy": 0.5, "seconds": 3.0})
        assert "used " not in said(workspace, "t0000")
        journal.report("t0000", 2, {"val/accuracy": 0.5, "seconds": 3.0}, usage=used)
        assert "used          CPU cores 97.5 % busy, 4.0 % of the time waiting for data" in said(workspace, "t0000")


def test_reason_of_a_failure_is_told_in_full(workspace: Workspace) -> None:
    write_search(workspace)
    text = said(workspace, "t0002")
    assert "failed after epoch 1" in text
    assert "reason        diverged: the loss\n              is nan" in text


def test_confirmation_is_told_with_its_own_seed_and_what_it_repeats(workspace: Workspace) -> None:
    write_search(workspace)
    text = said(workspace, "t0000-seed1001")
    assert "confirmation of t0000" in text
    assert "seed          1001" in text


def test_checkpoint_that_is_gone_and_run_in_mlflow_are_told(workspace: Workspace) -> None:
    folder = write_search(workspace)
    (folder / "ray" / "start-0" / "t0000").rename(folder / "elsewhere")
    (folder / "mlflow_run").write_text("4d78\n")
    text = said(workspace, "t0000")
    assert "checkpoint    removed since" in text
    assert "under its search's run 4d78" in text


def test_figures_that_are_missing_or_not_finite_are_no_mistake(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "t0000", epochs=0, state=None)
        assert said(workspace, "t0000").splitlines()[-1].split()[0] == "epoch"
        journal.report("t0000", 1, {"val/loss": math.nan})
    assert said(workspace, "t0000").splitlines()[-1].split() == ["1", "-", "-", "nan", "-", "-"]
    assert "waiting after epoch 1" in said(workspace, "t0000")


def test_unknown_trial_is_answered_with_the_nearest_names(workspace: Workspace) -> None:
    folder = write_search(workspace)
    with pytest.raises(UserError, match=r"has no trial 't003'; did you mean t0003"):
        said(workspace, "t003")
    with pytest.raises(UserError, match=f"has no trial 'x'; `sar-search status {folder.name[:8]}` lists them"):
        said(workspace, "x")


def test_without_a_search_it_says_what_begins_one(workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"no searches yet in .*`make repro` begins one"):
        said(workspace, "t0000")


def test_search_is_the_one_named_else_that_which_runs_else_that_of_params(workspace: Workspace) -> None:
    mine = write_search(workspace)
    later = write_search(workspace, other(content_of(workspace), 1))
    assert mine.name[:8] in said(workspace, "t0000")
    assert later.name[:8] in said(workspace, "t0000", later.name[:6])
    with open_search(workspace, other(content_of(workspace), 1)):
        assert later.name[:8] in said(workspace, "t0000")
    set_params(workspace, {"train": {"lr": "fast"}})
    assert later.name[:8] in said(workspace, "t0000")  # the newest, where params.yaml says nothing


class Story:
    """What happens to a search between two looks at it, a step a look."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self._steps = list(steps)

    def __call__(self, seconds: float) -> None:
        self._steps.pop(0)()


def follow(workspace: Workspace, name: str, *steps: Callable[[], None]) -> list[str]:
    lines = list(describe_trial(workspace, name, follow=True, wait=Story(*steps)))
    return lines[lines.index("") + 2 :]


def report(journal: Journal, name: str, epoch: int) -> Callable[[], None]:
    return lambda: journal.report(name, epoch, {"val/accuracy": epoch / 8})


def test_following_tells_each_epoch_once_until_the_end(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "t0000", epochs=1, state=None)
        run(journal, "t0001", epochs=1, state=None)
        lines = follow(
            workspace,
            "t0000",
            report(journal, "t0000", 2),
            report(journal, "t0001", 2),
            lambda: journal.end("t0000", PRUNED, "enough"),
        )
    assert [line.split()[0] for line in lines[:2]] == ["1", "2"]
    assert lines[1].split()[4] == "0.2500"
    assert lines[2:] == ["t0000 has ended: stopped early", "enough"]


def test_following_waits_for_the_end_of_a_line(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "t0000", epochs=1, state=None)
        path = ledger_folder(journal) / "journal.jsonl"
        line = b'{"event": "epoch", "trial": "t0000", "epoch": 2, "metrics": {}}\n'

        def write(part: bytes) -> Callable[[], None]:
            def step() -> None:
                with path.open("ab") as file:
                    file.write(part)

            return step

        lines = follow(workspace, "t0000", write(line[:20]), write(line[20:]), lambda: journal.end("t0000", PRUNED))
    assert [line.split()[0] for line in lines] == ["1", "2", "t0000"]


def test_following_a_trial_that_has_ended_ends_at_once(workspace: Workspace) -> None:
    write_search(workspace)
    assert follow(workspace, "t0002")[1:] == ["t0002 has ended: failed", "diverged: the loss", "is nan"]


def test_following_ends_when_nobody_runs_the_search_any_more(workspace: Workspace) -> None:
    journal = open_search(workspace)
    run(journal, "t0000", epochs=1, state=None)
    lines = follow(workspace, "t0000", journal.close)
    assert "no process runs search" in lines[-1]
    assert "the next run resumes t0000 from its checkpoint" in lines[-1]
