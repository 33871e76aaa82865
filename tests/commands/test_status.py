"""Claims about what is said of kept searches: how they stand, which goes on, and what they have cost."""

import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock
from support.search_state import (
    SPACE,
    content_of,
    ledger_folder,
    make_workspace,
    open_search,
    other,
    run,
    set_params,
    write_earlier_search,
    write_fold_searches,
    write_search,
)

from pipeline.commands.logs import describe_trial
from pipeline.commands.status import describe_search, describe_searches
from pipeline.console.format import LEFT, RIGHT, format_age, format_size, format_table
from pipeline.errors import UserError
from pipeline.files.file_stats import size_of
from pipeline.state.current_search import current_search
from pipeline.state.searches import find_searches, is_held, read_search
from pipeline.tune.journal.records import COMPLETE, METHOD, PRUNED, VAL_ACCURACY
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


def said(workspace: Workspace) -> str:
    return "\n".join(describe_searches(workspace))


def row(workspace: Workspace, folder: Path) -> list[str]:
    """A search's line in the table, by words."""
    (line,) = [line for line in describe_searches(workspace) if folder.name[:8] in line.split("  ")[0]]
    return line.split()


def test_table_counts_trials_by_state_and_confirmations_apart(workspace: Workspace) -> None:
    folder = write_search(workspace)
    mark, of, space, state, trials, best = row(workspace, folder)[:6]
    assert mark == f"*{folder.name[:8]}"
    assert (of, space) == ("digits,", "sar")
    assert state == "unfinished"
    assert trials == "1/1/1/1+1"
    assert best == "0.7500"


def test_best_is_a_trial_that_ran_in_full(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "t0000", epochs=1, state=PRUNED, accuracy=0.9)
        run(journal, "baseline", epochs=2, state=COMPLETE, accuracy=0.8, role="control")
        folder = ledger_folder(journal)
        assert "-" in row(workspace, folder)
        run(journal, "t0001", epochs=2, state=COMPLETE, accuracy=0.5)
        assert "0.5000" in row(workspace, folder)


def test_newest_comes_first_and_only_what_params_ask_for_is_marked(workspace: Workspace) -> None:
    content = content_of(workspace)
    mine = write_search(workspace)
    later = write_search(workspace, other(content, 1))
    lines = said(workspace).splitlines()
    assert lines[1].startswith(f" {later.name[:8]}")
    assert lines[2].startswith(f"*{mine.name[:8]}")
    set_params(workspace, {"base": {"seed": 3}})
    assert "*" not in said(workspace)
    assert "`make repro` begins a new one" in said(workspace)


def test_none_is_marked_while_data_are_of_other_parameters(workspace: Workspace) -> None:
    write_search(workspace)
    set_params(workspace, {"prepare": {"image_size": 24}})
    assert "*" not in said(workspace)
    assert "are not prepared yet" in said(workspace)


def test_split_of_the_parameters_decides_and_not_the_one_on_disk(workspace: Workspace) -> None:
    write_search(workspace)
    workspace.split.write_text("that of other parameters")
    assert f"*{present(workspace).name[:8]}" in said(workspace)
    set_params(workspace, {"split": {"val_fraction": 0.5}})
    assert "`make repro` begins a new one" in said(workspace)


def present(workspace: Workspace) -> Path:
    from pipeline.config import load_params

    found = current_search(workspace, load_params(workspace.params))
    assert found is not None
    return found.folder


def test_search_begun_anew_is_superseded_and_no_longer_the_one_that_goes_on(workspace: Workspace) -> None:
    folder = write_search(workspace)
    assert present(workspace) == folder
    (folder / "superseded").touch()
    assert present(workspace) != folder
    assert "superseded" in row(workspace, folder)
    assert "a new search has replaced this one" in "\n".join(describe_search(workspace, folder.name[:8]))


def test_wrong_parameters_do_not_hide_the_searches(workspace: Workspace) -> None:
    folder = write_search(workspace)
    set_params(workspace, {"train": {"lr": "fast"}})
    assert folder.name[:8] in said(workspace)
    assert "params.yaml or its space has a mistake" in said(workspace)
    set_params(workspace, {})
    (workspace.root / "search_spaces" / "sar.yaml").unlink()
    assert folder.name[:8] in said(workspace)
    assert "params.yaml or its space has a mistake" in said(workspace)


def test_ledger_that_cannot_be_read_is_told_beside_those_that_can(workspace: Workspace) -> None:
    folder = write_search(workspace)
    broken = workspace.searches / "broken" / "journal.jsonl"
    broken.parent.mkdir()
    broken.write_text("x\n{}\n")
    assert folder.name[:8] in said(workspace)
    assert f"not listed: {broken}: line 1 is broken" in said(workspace)


def test_search_of_an_earlier_version_is_listed_with_what_to_do(workspace: Workspace) -> None:
    earlier = write_earlier_search(workspace)
    line = f"search {earlier.name[:8]} ("
    assert "no searches yet" not in said(workspace)
    assert line in said(workspace)
    assert "was begun by an earlier version and cannot be resumed" in said(workspace)
    assert "a run with its parameters begins a new search" in said(workspace)
    write_search(workspace, other(content_of(workspace), 1))
    assert line in said(workspace)


def test_no_searches_are_no_mistake(workspace: Workspace) -> None:
    assert "no searches yet" in said(workspace)


def test_search_runs_while_a_process_holds_its_ledger(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "t0000", epochs=1, state=None)
        folder = ledger_folder(journal)
        assert row(workspace, folder)[3:5] == ["running", str(os.getpid())]
        assert any("t0000" in line and "running" in line for line in describe_search(workspace, folder.name))
        (folder / "stop").touch()
        assert row(workspace, folder)[3] == "finishing"
    assert row(workspace, folder)[3] == "unfinished"
    assert any("t0000" in line and "waiting" in line for line in describe_search(workspace, folder.name))


def test_trial_of_an_earlier_session_waits_until_it_is_taken_up(workspace: Workspace) -> None:
    folder = write_search(workspace)
    with open_search(workspace) as journal:
        assert any("t0003" in line and "waiting" in line for line in describe_search(workspace, folder.name))
        journal.resume("t0003")
        assert any("t0003" in line and "running" in line for line in describe_search(workspace, folder.name))


def test_paused_trials_are_told_apart_from_those_that_run(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        for name in ("t0000", "t0001", "t0002"):
            run(journal, name, epochs=1, state=None)
        journal.pause("t0000")
        journal.pause("t0001")
        journal.resume("t0001")
        folder = ledger_folder(journal)
        lines = list(describe_search(workspace, folder.name))
        assert any("t0000" in line and "paused" in line for line in lines)
        assert any("t0001" in line and "running" in line for line in lines)
        assert "trials  0 in full, 0 stopped early, 0 failed, 1 paused, 2 not ended; 0 confirmations" in lines
    assert row(workspace, folder)[4] == "0/0/0/3"
    assert "in full/stopped early/failed/not ended, those that are paused too, + conf" in said(workspace)


def test_search_says_what_its_epochs_used_where_that_was_measured(workspace: Workspace) -> None:
    folder = write_search(workspace)
    assert not any(line.startswith("used") for line in describe_search(workspace, folder.name))
    with open_search(workspace) as journal:
        for epoch, share in ((5, 100.0), (6, 50.0)):
            used = {"system/process_cpu_utilization_percentage": share, "system/data_wait_percentage": share / 10}
            journal.report("t0000", epoch, {"val/accuracy": 0.5, "seconds": 3.0}, usage=used)
        lines = list(describe_search(workspace, folder.name))
        assert "used    CPU cores 75.0 % busy, 7.5 % of the time waiting for data" in lines


def test_epochs_are_told_beside_those_of_the_budget(workspace: Workspace) -> None:
    set_params(workspace, {"search": {"trials": 12, "budget": {"full_trainings": None}}})
    folder = write_search(workspace)
    (line,) = [line for line in describe_search(workspace, folder.name) if line.startswith("spent")]
    assert line.startswith("spent   9 epochs, ")
    set_params(workspace, {"search": {"budget": {"full_trainings": 20}}})
    (line,) = [line for line in describe_search(workspace, folder.name) if line.startswith("spent")]
    assert line.startswith("spent   9 of 160 epochs, ")
    set_params(workspace, {"search": {"budget": {"full_trainings": 1}}})  # as after an extension that chose others
    (line,) = [line for line in describe_search(workspace, folder.name) if line.startswith("spent")]
    assert line.startswith("spent   9 epochs, 1 beyond the budget of 8, as runs of earlier sessions count too, ")
    set_params(workspace, {"search": {"budget": {"full_trainings": 20}}, "base": {"seed": 3}})
    (line,) = [line for line in describe_search(workspace, folder.name) if line.startswith("spent")]
    assert line.startswith("spent   9 epochs, ")


def test_process_that_holds_a_search_and_is_not_that_of_its_ledger_runs_elsewhere(workspace: Workspace) -> None:
    folder = write_search(workspace)
    text = (folder / "journal.jsonl").read_text()
    (folder / "journal.jsonl").write_text(text.replace(f'"pid": {os.getpid()}', '"pid": 1'))
    with FileLock(folder / "journal.lock"):
        assert row(workspace, folder)[3:5] == ["running", "elsewhere"]


def test_process_whose_number_was_given_away_does_not_run_a_search(workspace: Workspace) -> None:
    folder = write_search(workspace)
    assert read_search(folder).pid == os.getpid()  # alive, and no longer at this search
    assert read_search(folder).runner() is None


def test_asking_keeps_nobody_from_asking_and_touches_nothing(workspace: Workspace) -> None:
    import fcntl

    folder = write_search(workspace)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    lock = os.open(folder / "journal.lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)  # another one who asks
    try:
        assert not is_held(folder / "journal.lock")
    finally:
        os.close(lock)
    said(workspace)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_gpu_hours_and_money_are_told_where_there_are_any(workspace: Workspace) -> None:
    folder = write_search(workspace)
    assert "GPU-h" not in said(workspace)
    with open_search(workspace, gpus=0.5) as journal:
        journal.resume("t0003")
        time.sleep(0.05)
        journal.report("t0003", 2, {"val/accuracy": 0.5})
    assert "GPU-h" in said(workspace)
    assert "cost" not in said(workspace)
    set_params(workspace, {"search": {"budget": {"price_per_gpu_hour": 1e6}}})
    spent = read_search(folder).history.gpu_seconds
    assert spent > 0
    assert f"{spent / 3600 * 1e6:.2f} in money" in "\n".join(describe_search(workspace, folder.name))
    assert f"{spent / 3600 * 1e6:.2f}" in said(workspace)


def test_one_search_is_told_trial_by_trial(workspace: Workspace) -> None:
    folder = write_search(workspace, other(content_of(workspace), 1))
    lines = list(describe_search(workspace, folder.name[:3]))
    text = "\n".join(lines)
    assert "1 in full, 1 stopped early, 1 failed, 1 not ended; 1 confirmation" in text
    assert "have changed since: base.seed 1 -> 0" in text
    assert "in 1 session" in text
    (control,) = [line.split() for line in lines if line.startswith("baseline")]
    assert control == ["baseline", "control", "in", "full", "2", "0.5000", "6.0", "weight=0.25"]


def test_unknown_or_ambiguous_search_is_named_with_those_that_there_are(workspace: Workspace) -> None:
    folders = [write_search(workspace, {"seed": seed}) for seed in range(17)]
    with pytest.raises(UserError, match=r"search 'zz': no id begins with this; there are .*sar-search status"):
        list(describe_search(workspace, "zz"))
    first = [folder.name[0] for folder in folders]
    twice = next(digit for digit in first if first.count(digit) > 1)  # 17 ids, 16 digits
    with pytest.raises(UserError, match="several ids begin with this"):
        list(describe_search(workspace, twice))


def test_lines_of_the_table_fit_in_eighty_columns(workspace: Workspace) -> None:
    text = SPACE.replace("0.1", "0.2")
    (workspace.root / "search_spaces" / "sar.yaml").write_text(text)
    write_search(workspace)
    columns = dict.fromkeys(("id", "of"), LEFT) | {"size": RIGHT}
    lines = format_table(columns, [["7a64c473", "a set of a very long name", "1.2 MB"]], gives_way="of", width=30)
    assert lines == ["id        of              size", "7a64c473  a set of ...  1.2 MB"]
    assert max(map(len, said(workspace).splitlines())) <= 80


@pytest.mark.parametrize(("size", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_960, "10 kB"), (1_234_567, "1.2 MB"), (999_600_000, "1.0 GB"), (5e13, "50.0 TB")])  # fmt: skip
def test_size_is_told_in_few_digits(size: float, words: str) -> None:
    assert format_size(size) == words


@pytest.mark.parametrize(("seconds", "words"), [(-5, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (40 * 3600, "40 h"), (72 * 3600, "3 d")])  # fmt: skip
def test_age_is_told_in_one_unit(seconds: float, words: str) -> None:
    assert format_age(seconds) == words


def test_size_is_that_of_all_files_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 10)
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    assert 10 <= size_of(tmp_path / "a") < 1000
    assert size_of(tmp_path / "none") == 0


def test_search_that_is_being_removed_is_left_out(workspace: Workspace) -> None:
    folder = write_search(workspace)
    (folder / "journal.jsonl").unlink()
    assert find_searches(workspace.searches).searches == []
    assert read_search(folder).history.header == {}


def test_names_are_those_of_the_search_itself() -> None:
    from pipeline.tune.ray import trainable
    from pipeline.tune.study import studies

    assert (METHOD, VAL_ACCURACY) == (studies.METHOD, trainable.VAL_ACCURACY)


REMOVED = [("sampler", "cmaes"), ("sampler", "noisy_gp"), ("scheduler", "pasha")]


@pytest.mark.parametrize(("group", "name"), REMOVED)
def test_search_begun_with_what_has_been_taken_out_is_told_and_never_the_one_to_go_on_with(
    workspace: Workspace, group: str, name: str
) -> None:
    content = content_of(workspace)
    folder = write_search(workspace, {**content, group: {**content[group], "name": name}})
    assert row(workspace, folder)[0] == folder.name[:8]  # no mark: params.yaml asks for another one
    assert "t0000" in "\n".join(describe_search(workspace, folder.name[:8]))
    set_params(workspace, {"search": {group: {"name": name}}})
    assert row(workspace, folder)[0] == folder.name[:8]
    assert "t0000" in "\n".join(describe_search(workspace, folder.name[:8]))
    assert "t0000, trial, of search" in "\n".join(describe_trial(workspace, "t0000"))


def test_ended_search_says_what_speaks_against_it_and_one_that_runs_does_not_yet(workspace: Workspace) -> None:
    with open_search(workspace) as journal:
        run(journal, "baseline", epochs=4, state=COMPLETE, role="control")
        run(journal, "t0000", epochs=4, state=COMPLETE, accuracy=0.75)
        run(journal, "t0001", epochs=1, state=None)
        assert not any(line.startswith("health") for line in describe_search(workspace, ""))
        journal.end("t0001", PRUNED, None)
        assert not any(
            line.startswith("health") for line in describe_search(workspace, "")
        )  # this process may go on with it
    lines = [line for line in describe_search(workspace, "") if line.startswith("health")]
    assert lines[0] == "health  Nothing was found that speaks against this search."
    assert "(1 trial in full, 8 are needed)" in " ".join(lines[1].split())


def test_running_search_is_looked_at_once_it_has_enough_trials_in_full(workspace: Workspace) -> None:
    early = [0.31, 0.30, 0.33, 0.32, 0.35, 0.34, 0.30, 0.36, 0.31, 0.30]
    ends = [0.50, 0.57, 0.52, 0.55, 0.51, 0.56, 0.53, 0.54, 0.58, 0.59]
    with open_search(workspace) as journal:
        for number, (first, last) in enumerate(zip(early, ends, strict=True)):
            name = f"t{number:04d}"
            run(journal, name, epochs=3, state=None, accuracy=first)
            journal.report(name, 4, {"val/loss": 1.0, "val/accuracy": last, "seconds": 1.0})
            journal.end(name, COMPLETE, None)
        lines = [line for line in describe_search(workspace, "") if line.startswith("health")]
    assert lines[0].startswith("health  Values at rungs predict the last epoch poorly: over 10 trials in full, ")
    assert "is -0.40 at epoch 2." in " ".join(lines[0].split())


def test_running_pipeline_is_told_with_its_stage_and_how_far_that_is(workspace: Workspace) -> None:
    write_search(workspace)
    assert "the pipeline is running" not in said(workspace)
    with workspace.locked("make repro", lock="repro"):
        assert said(workspace).startswith(f"the pipeline is running: make repro, process {os.getpid()}\n\n")
        with workspace.locked("retrain"):
            assert said(workspace).startswith(f"the pipeline is running: retrain, process {os.getpid()}\n")
            workspace.note_progress("retrain", "4 of 10 networks")
            assert f"running: retrain, 4 of 10 networks, process {os.getpid()}\n" in said(workspace)
    assert "the pipeline is running" not in said(workspace)


def test_health_of_a_search_whose_stopping_rule_is_no_more_is_not_told(workspace: Workspace) -> None:
    content = content_of(workspace)
    folder = write_search(workspace, content | {"scheduler": {"name": "pasha"}})
    with open_search(workspace, content | {"scheduler": {"name": "pasha"}}) as journal:
        journal.end("t0003", PRUNED, None)
    assert not any(line.startswith("health") for line in describe_search(workspace, folder.name))


def test_searches_of_folds_are_told_apart_and_are_all_what_the_next_run_goes_on_with(workspace: Workspace) -> None:
    set_params(workspace, {"evaluate": {"folds": 3}, "split": {"duplicates": "ignore"}})
    folders = write_fold_searches(workspace)
    assert len(set(folders)) == 4
    table = said(workspace)
    for folder, part in zip(folders, ("all images", "fold 1 of 3", "fold 2 of 3", "fold 3 of 3"), strict=True):
        assert f"*{folder.name[:8]}" in table
        assert part in " ".join(row(workspace, folder))
        told = "\n".join(describe_search(workspace, folder.name[:8]))
        assert f"over search_spaces/sar.yaml, {part}" in told
        assert "params  ask for it: the next run resumes this search" in told
    set_params(workspace, {"evaluate": {"folds": 4}, "split": {"duplicates": "ignore"}})
    assert f"*{folders[1].name[:8]}" not in said(workspace)


def test_best_of_an_ended_search_is_what_it_has_chosen_whatever_results_hold(workspace: Workspace) -> None:
    folder = write_search(workspace)
    with open_search(workspace) as journal:
        run(journal, "t0004", epochs=2, state=COMPLETE, accuracy=0.9)
    chosen = {"fingerprint": folder.name + "0" * 48, "trial": "t0000", "best": {}, "controls": {}}
    (folder / "best.yaml").write_text(json.dumps(chosen))
    assert "t0004, the best so far" in "\n".join(describe_search(workspace, folder.name))  # t0003 has not ended
    with open_search(workspace) as journal:
        journal.end("t0003", PRUNED, None)
    assert "t0000, chosen" in "\n".join(describe_search(workspace, folder.name))


def test_ended_search_is_not_said_to_be_resumed(workspace: Workspace) -> None:
    folder = write_search(workspace)
    assert "* the next run resumes this search;" in said(workspace)
    with open_search(workspace) as journal:
        journal.end("t0003", PRUNED, None)
    nothing = "it has ended, and the next run trains nothing further for it unless params.yaml extends it"
    assert f"* {nothing};" in said(workspace)
    assert f"params  ask for it: {nothing}" in "\n".join(describe_search(workspace, folder.name))


def test_search_of_a_comparison_has_its_methods_name(workspace: Workspace) -> None:
    content = content_of(workspace)
    with open_search(workspace, content, space_file="results/compare/tuned_control/space.yaml") as journal:
        run(journal, "t0000", epochs=2, state=COMPLETE)
        folder = ledger_folder(journal)
    assert row(workspace, folder)[1:3] == ["digits,", "tuned_control"]
