"""Claims about gc: what is needed stays, what is not goes whole, and nothing that runs is touched."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from support.partial_results import filled_content
from support.search_state import (
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

from pipeline.artifacts.evaluation import Evaluation
from pipeline.commands import gc as module
from pipeline.commands.gc import collect_garbage
from pipeline.config import load_params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.splits.split import write_split
from pipeline.errors import UserError
from pipeline.inputs.data_split import compute_split
from pipeline.inputs.procedure import read_parts
from pipeline.models.model_config import Weights
from pipeline.provenance.weights_record import cache_folder, write_note
from pipeline.state import removal
from pipeline.state.searches import find_searches, search_directory
from pipeline.tune.journal.journal import lock_journal
from pipeline.tune.journal.records import COMPLETE, PRUNED
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


def gc(workspace: Workspace, *, keep: int = 0, dry_run: bool = False) -> str:
    return "\n".join(collect_garbage(workspace, keep=keep, dry_run=dry_run))


def write_old(workspace: Workspace, count: int) -> list[Path]:
    """Searches of other seeds, the oldest first."""
    content = content_of(workspace)
    return [write_search(workspace, other(content, seed)) for seed in range(1, count + 1)]


def test_old_searches_go_and_the_newest_of_them_stay(workspace: Workspace) -> None:
    mine = write_search(workspace)
    old = write_old(workspace, 5)
    said = gc(workspace, keep=3)
    assert [folder.exists() for folder in old] == [False, False, True, True, True]
    assert mine.exists()
    assert f"state/searches/{old[0].name}" in said
    assert "not among the 3 newest" in said
    assert not (workspace.searches / "removed").exists()
    assert "nothing to remove" in gc(workspace, keep=3)


def test_dry_run_says_what_would_go_and_touches_nothing(workspace: Workspace) -> None:
    write_search(workspace)
    old = write_old(workspace, 2)
    before = sorted(workspace.root.rglob("*"))
    said = gc(workspace, dry_run=True)
    assert all("would go" in line for line in said.splitlines()[:2])
    assert all(folder.name in said for folder in old)
    assert "nothing has been removed (--dry-run)" in said
    assert sorted(workspace.root.rglob("*")) == before


def test_search_that_the_results_came_from_stays(workspace: Workspace) -> None:
    (old,) = write_old(workspace, 1)
    fingerprint = find_searches(workspace.searches).searches[0].history.header["fingerprint"]
    folder = workspace.results / "search"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text(f"{{fingerprint: {fingerprint}, trial: t0000, best: {{}}, controls: {{}}}}\n")
    gc(workspace)
    assert old.exists()


def test_running_search_is_not_touched(workspace: Workspace) -> None:
    (old,) = write_old(workspace, 1)
    with open_search(workspace, other(content_of(workspace), 1)) as journal:
        run(journal, "t0007", epochs=1, state=PRUNED)
        before = sorted(old.rglob("*"))
        assert f"kept     state/searches/{old.name}: running {os.getpid()}" in gc(workspace)
        assert sorted(old.rglob("*")) == before
    gc(workspace)
    assert not old.exists()


def test_search_that_begins_to_run_meanwhile_is_not_touched(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = write_old(workspace, 1)
    held = []

    def size_of(path: Path) -> int:
        held.append(lock_journal(old / "journal.jsonl"))  # between the look at it and its removal
        return 0

    monkeypatch.setattr(module, "size_of", size_of)
    said = gc(workspace)
    held[0].release()
    assert f"kept     state/searches/{old.name}: in use by now" in said
    assert (old / "journal.jsonl").exists()


def test_no_search_goes_while_it_cannot_be_told_which_goes_on(workspace: Workspace) -> None:
    old = write_old(workspace, 2)
    shutil.rmtree(workspace.prepared)
    assert "kept     every search" in gc(workspace)
    assert all(folder.exists() for folder in old)


def test_wrong_parameters_are_refused_before_anything_goes(workspace: Workspace) -> None:
    old = write_old(workspace, 1)
    set_params(workspace, {"train": {"lr": "fast"}})
    with pytest.raises(UserError, match=r"train\.lr"):
        gc(workspace)
    assert old[0].exists()


def test_search_that_cannot_be_read_stays_for_its_user(workspace: Workspace) -> None:
    broken = workspace.searches / "broken" / "journal.jsonl"
    broken.parent.mkdir(parents=True)
    broken.write_text("x\n{}\n")
    assert f"kept     {broken}: line 1 is broken" in gc(workspace)
    assert broken.exists()


def test_search_of_an_earlier_version_stays_unless_all_old_ones_go(workspace: Workspace) -> None:
    earlier = write_earlier_search(workspace)
    before = sorted(earlier.rglob("*"))
    assert f"kept     state/searches/{earlier.name}: begun by an earlier version" in gc(workspace, keep=1)
    assert "would go" in gc(workspace, dry_run=True)
    assert sorted(earlier.rglob("*")) == before
    name, beside = search_directory(workspace.searches, content_of(workspace))
    assert f"state/searches/{earlier.name}: search that an earlier version began" in gc(workspace)
    assert {path.name for path in earlier.iterdir()} <= {"superseded", "ledger.lock"}
    assert search_directory(workspace.searches, content_of(workspace)) == (name, beside)
    assert "nothing to remove" in gc(workspace)


def test_search_of_an_earlier_version_that_runs_or_has_results_stays(workspace: Workspace) -> None:
    earlier = write_earlier_search(workspace)
    before = sorted(earlier.rglob("*"))
    with lock_journal(earlier / "ledger.jsonl"):
        assert "an earlier version runs it" in gc(workspace)
    results = workspace.results / "search"
    results.mkdir(parents=True)
    (results / "best.yaml").write_text(f"{{fingerprint: {earlier.name}, trial: t0000, best: {{}}, controls: {{}}}}\n")
    assert "results/ came from it" in gc(workspace)
    assert sorted(earlier.rglob("*")) == before


def test_superseded_search_leaves_its_mark_so_that_its_successor_is_found(workspace: Workspace) -> None:
    first = write_search(workspace)
    (first / "superseded").touch()
    name, second = search_directory(workspace.searches, content_of(workspace))
    assert second != first
    gc(workspace)
    assert find_searches(workspace.searches).searches == []
    assert {path.name for path in first.iterdir()} <= {"superseded", "journal.lock"}
    assert search_directory(workspace.searches, content_of(workspace)) == (name, second)


def test_what_an_interruption_leaves_is_no_search_and_goes_next_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = write_old(workspace, 1)

    def interrupted(path: Path) -> None:
        (path / old.name / "ray").rename(path / "half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gc(workspace)
    assert not old.exists()
    assert find_searches(workspace.searches).searches == []
    assert "left by a" in gc(workspace)
    assert list(workspace.searches.iterdir()) == []


def test_superseded_search_whose_removal_was_interrupted_goes_next_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_search(workspace)
    (old / "superseded").touch()
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        replace(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(removal.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gc(workspace)
    gc(workspace)
    assert {path.name for path in old.iterdir()} <= {"superseded", "journal.lock"}
    assert not (workspace.searches / "removed").exists()


def checkpoints(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("ray/start-*/*/checkpoint_*")}


def write_ended(workspace: Workspace) -> Path:
    """A search that has ended, with a checkpoint of every trial."""
    with open_search(workspace) as journal:
        run(journal, "baseline", epochs=2, state=COMPLETE, accuracy=0.1, role="control")
        for number in range(4):
            run(journal, f"t000{number}", epochs=2, state=COMPLETE, accuracy=0.5 + number / 10)
        run(journal, "t0004", epochs=1, state=PRUNED, accuracy=0.95)
        run(journal, "t0001-seed1001", epochs=2, state=COMPLETE, accuracy=0.9, role="confirmation", of="t0001")
        return ledger_folder(journal)


def test_checkpoints_of_controls_and_of_the_best_stay(workspace: Workspace) -> None:
    set_params(workspace, {"search": {"keep_checkpoints": 1, "confirm": {"top": 1, "seeds": 1}}})
    folder = write_ended(workspace)
    said = gc(workspace)
    assert checkpoints(folder) == {"baseline", "t0003", "t0001"}  # the best, and one that was good enough to confirm
    assert "checkpoint of t0004, stopped early or paused, which begins anew if there will be more budget, of" in said
    assert "checkpoint of t0001-seed1001, a confirmation that has ended, of" in said
    assert "checkpoint of t0002, neither a control nor among the best of" in said
    assert (folder / "journal.jsonl").exists()
    assert not (workspace.searches / "removed").exists()


def test_checkpoints_stay_where_a_trial_has_not_ended(workspace: Workspace) -> None:
    set_params(workspace, {"search": {"keep_checkpoints": 1, "confirm": {"top": 1, "seeds": 1}}})
    folder = write_search(workspace)
    there = checkpoints(folder)
    assert "nothing to remove" in gc(workspace)
    assert checkpoints(folder) == there


def test_checkpoints_are_found_by_the_ledger_when_the_checkout_has_moved(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    set_params(workspace, {"search": {"keep_checkpoints": 1, "confirm": {"top": 1, "seeds": 1}}})
    folder = write_ended(workspace)
    there = tmp_path_factory.mktemp("moved") / "checkout"
    shutil.copytree(workspace.root, there)
    gc(Workspace(there, there))
    assert {"baseline", "t0001"} <= checkpoints(there / folder.relative_to(workspace.root))
    assert "t0004" not in checkpoints(there / folder.relative_to(workspace.root))
    assert "t0003" in checkpoints(there / folder.relative_to(workspace.root))
    assert "t0004" in checkpoints(folder)


def write_weights(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "checkpoint.json").write_text(content)
    (folder / "weights.safetensors").write_bytes(b"x" * 100)
    return folder


def test_retrained_weights_that_models_hold_stay(workspace: Workspace) -> None:
    retrain = workspace.state / "retrain"
    used = write_weights(retrain / "aaaa", "first")
    write_weights(workspace.models / "best-seed1", "first")
    old = write_weights(retrain / "bbbb", "second")
    partial = retrain / "cccc.partial"
    partial.mkdir()
    begun = retrain / "ray"
    begun.mkdir()
    assert "kept     retrained weights" in gc(workspace)  # the stage may be in the middle
    assert old.exists()
    (workspace.results / "retrain").mkdir(parents=True)
    (workspace.results / "retrain" / "retrain.json").write_text("{}")
    with workspace.locked("retrain"):
        assert "kept     retrained weights" in gc(workspace)
        assert old.exists()
    assert "state/retrain/ray" not in gc(workspace, dry_run=True)
    checkpoint = write_weights(begun / "dddd" / "epoch-000003", "third")
    said = gc(workspace)
    assert "state/retrain/ray/dddd: checkpoints of an abandoned retraining run" in said
    assert not checkpoint.exists()
    assert used.exists()
    assert not old.exists()
    assert not partial.exists()


def test_half_made_data_go_once_the_data_are_whole(workspace: Workspace) -> None:
    half = workspace.state / "prepare" / "aaaa"
    half.mkdir()
    set_params(workspace, {"prepare": {"image_size": 24}})
    gc(workspace)
    assert half.exists()
    set_params(workspace, {})
    with workspace.locked("prepare"):
        gc(workspace)
        assert half.exists()
    gc(workspace)
    assert not half.exists()
    assert (workspace.state / "prepare" / "sources.json").exists()


def test_looks_and_tracking_store_are_never_touched(workspace: Workspace) -> None:
    kept = [
        workspace.state / "looks.jsonl",
        workspace.state / "test_reads.jsonl",
        workspace.root / "mlflow.db",
        workspace.root / "mlflow.db.lock",
    ]
    for path in kept:
        path.write_text("x")
    write_old(workspace, 2)
    gc(workspace)
    assert all(path.exists() for path in kept)


def test_gc_keeps_stages_out_while_it_removes(workspace: Workspace) -> None:
    write_old(workspace, 2)
    lines = collect_garbage(workspace, keep=0)
    next(lines)
    with pytest.raises(UserError, match="sar-search gc, process"), workspace.locked("retrain"):
        pass
    assert len(list(lines)) == 2
    with workspace.locked("retrain"):
        pass


def test_numbers_of_the_command_are_those_of_the_code() -> None:
    from pipeline.cli import gc as command

    (keep,) = [option for option in command.params if option.name == "keep"]
    assert keep.default == module.KEEP


def test_fetched_weights_stay_while_a_search_results_or_the_last_plan_begin_from_them(workspace: Workspace) -> None:
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("old", "mine", "found", "noted", "nobody")}
    folders = {name: cache_folder(workspace, sha256) for name, sha256 in hashes.items()}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"x")
    weights = {name: {name: {"sha256": sha256, "resolved": "", "network": None}} for name, sha256 in hashes.items()}
    write_note(workspace, {"noted": Weights("noted", "", hashes["noted"])})
    content = content_of(workspace)
    for seed, name in ((0, "mine"), (1, "old")):
        folder = write_search(workspace, other(content, seed))
        lines = (folder / "journal.jsonl").read_text().splitlines()
        header = json.loads(lines[0]) | {"weights": weights[name]}
        (folder / "journal.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    results = workspace.results / "search"
    results.mkdir(parents=True)
    best = {"fingerprint": "f00d" * 16, "trial": "t0000", "best": {}, "controls": {}, "weights": weights["found"]}
    (results / "best.yaml").write_text(json.dumps(best))
    said = gc(workspace)
    assert {name for name, folder in folders.items() if not folder.exists()} == {"old", "nobody"}
    assert f"state/pretrained/{hashes['nobody'][:16]}: fetched weights that nothing here uses" in said
    assert (workspace.state / "pretrained" / "resolved.json").exists()


def test_guides_stay_while_a_search_here_is_of_their_split(workspace: Workspace) -> None:
    (old,) = write_old(workspace, 1)
    content = content_of(workspace)
    for name, split in (("mine", content["split"]), ("another", "of other data")):
        folder = workspace.state / "guides" / name
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text(json.dumps({"data": content["data"], "split": split}))
    (workspace.state / "guides" / "half").mkdir()
    said = gc(workspace)
    assert "state/guides/another: a guide, of a split that no search has" in said
    assert [path.name for path in sorted((workspace.state / "guides").iterdir())] == ["mine"]
    assert not old.exists()


def test_searches_of_folds_stay_with_that_of_all_images(workspace: Workspace) -> None:
    set_params(workspace, {"evaluate": {"folds": 3}, "split": {"duplicates": "ignore"}})
    mine = write_fold_searches(workspace)
    (old,) = write_old(workspace, 1)
    gc(workspace)
    assert all(folder.exists() for folder in mine)
    assert not old.exists()
    for number, folder in enumerate(mine):
        place = workspace.results / "search" / (f"folds/{number}" if number else "")
        place.mkdir(parents=True, exist_ok=True)
        content = {"fingerprint": folder.name + "0" * 48, "trial": "t0000", "best": {}, "controls": {}}
        (place / "best.yaml").write_text(json.dumps(content))
    set_params(workspace, {})
    gc(workspace)
    assert all(folder.exists() for folder in mine)  # results came from them
    shutil.rmtree(workspace.results / "search" / "folds")
    gc(workspace)
    assert [folder.exists() for folder in mine] == [True, False, False, False]


def test_retrained_weights_of_folds_are_those_that_models_holds(workspace: Workspace) -> None:
    (workspace.results / "retrain").mkdir(parents=True)
    (workspace.results / "retrain" / "retrain.json").write_text("{}")
    for name, place in (("a" * 16, "best-seed1"), ("b" * 16, "folds/2/best-seed20001"), ("c" * 16, None)):
        folder = workspace.state / "retrain" / name
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text(name)
        if place:
            (workspace.models / place).mkdir(parents=True)
            (workspace.models / place / "checkpoint.json").write_text(name)
    gc(workspace)
    assert sorted(path.name for path in (workspace.state / "retrain").iterdir()) == ["a" * 16, "b" * 16]


def test_splits_of_other_folds_go_and_those_that_params_asks_for_stay(workspace: Workspace) -> None:
    set_params(workspace, {"evaluate": {"folds": 3}, "split": {"duplicates": "ignore"}})
    params = load_params(workspace.params)
    split = compute_split(workspace, params, open_prepared(workspace.prepared))
    write_split(split, workspace.split, data_hash="d", seed=0)
    mine = [part.path for part in read_parts(workspace, params, data_hash="d")[1:]]
    old = mine[0].with_name("e-0123456789abcdef.json")
    old.write_text("{}")
    said = gc(workspace)
    assert "state/folds/e-0123456789abcdef.json: a fold's split, of other folds or data" in said
    assert [path.exists() for path in (*mine, old)] == [True, True, True, False]
    set_params(workspace, {})
    gc(workspace)
    assert list((workspace.state / "folds").iterdir()) == []


def test_features_of_the_results_probe_stay(workspace: Workspace) -> None:
    folder = workspace.state / "features"
    folder.mkdir(parents=True)
    for name in ("used.npy", "other.npy"):
        (folder / name).write_bytes(b"rows")
    evaluation = workspace.results / "evaluate" / "evaluation.json"
    evaluation.parent.mkdir(parents=True, exist_ok=True)
    content = filled_content(Evaluation, {"probe": {"features_file": "used.npy"}})
    evaluation.write_text(json.dumps(content))
    assert "state/features/other.npy: frozen features that results/ do not use" in gc(workspace)
    assert [path.name for path in folder.iterdir()] == ["used.npy"]
    del content["probe"]
    evaluation.write_text(json.dumps(content))
    gc(workspace)
    assert not list(folder.iterdir())
