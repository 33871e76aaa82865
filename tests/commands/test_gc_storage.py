"""Claims about gc and status of searches whose checkpoints and data lie in shared storage, a folder or a bucket."""

from pathlib import Path

import pytest
from mlflow_server import free_port
from support.s3_store import s3_environment, s3_store_of_a_module  # noqa: F401
from support.search_state import content_of, make_workspace, open_search, other, run
from support.services import BUCKET

from pipeline.cluster import storage
from pipeline.cluster.storage import join, write_text
from pipeline.commands.gc import collect_garbage
from pipeline.commands.status import describe_search, describe_searches
from pipeline.tune.journal.records import COMPLETE, CONTROL, TRIAL
from pipeline.tune.journal.remote_files import NOTE, mark_in_use, note_checkpoint_folder, read_remote_files
from pipeline.workspace import Workspace


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> str:
    name = "".join(character for character in request.node.name if character.isalnum())
    return str(tmp_path / "shared") if request.param == "folder" else f"s3://{BUCKET}/{name}"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "checkout").mkdir()
    return make_workspace(tmp_path / "checkout", {"search": {"keep_checkpoints": 1, "confirm": {"top": 1}}})


def gc(workspace: Workspace, *, keep: int = 0, dry_run: bool = False) -> str:
    return "\n".join(collect_garbage(workspace, keep=keep, dry_run=dry_run))


def _search(workspace: Workspace, place: str, seed: int | None = None, *, ended: bool = True) -> Path:
    """A search with a control and three trials whose checkpoints, and whose data, lie in storage. Returns its folder."""
    content = content_of(workspace)
    with open_search(workspace, content if seed is None else other(content, seed)) as journal:
        folder = Path(journal._file.name).parent
        root = note_checkpoint_folder(place, folder)
        mark_in_use(join(place, "data", "d"), folder)
        write_text(join(place, "data", "d", ".whole"), "")
        for number, name in enumerate(["baseline", "t0000", "t0001", "t0002"]):
            role = TRIAL if number else CONTROL
            checkpoint = join(root, "start-0", name, "checkpoint_000000")
            write_text(join(checkpoint, "weights"), "w" * 1000)
            state = COMPLETE if ended or number < 3 else None
            run(journal, name, epochs=2, state=state, accuracy=0.5 + 0.1 * number, checkpoint=checkpoint, role=role)
    return folder


def _left(place: str, folder: Path) -> list[str]:
    outside = read_remote_files(folder)
    return [
        held.split("/")[-2] for root in (outside.checkpoints if outside else ()) for held in storage.list_dir(root, 3)
    ]


def test_checkpoints_in_storage_go_but_for_those_of_controls_and_of_the_best(workspace: Workspace, place: str) -> None:
    mine, unended = _search(workspace, place), _search(workspace, place, 1, ended=False)
    before = sorted(storage.list_dir(place, 5))
    said = gc(workspace, keep=1, dry_run=True)
    assert said.count("would go") == 2
    assert sorted(storage.list_dir(place, 5)) == before
    assert gc(workspace, keep=1).count("removed ") == 2
    assert _left(place, mine) == ["baseline", "t0002"]
    assert _left(place, unended) == ["baseline", "t0000", "t0001", "t0002"]


def test_search_goes_with_what_it_has_in_storage_and_nothing_of_others_does(workspace: Workspace, place: str) -> None:
    mine, old = _search(workspace, place), _search(workspace, place, 1)
    # Another checkout's, of the same search, and what lies there besides.
    theirs = join(place, "searches", f"{old.name}-0123abcd")
    write_text(join(theirs, "start-0", "t0000", "checkpoint_000000", "weights"), "w")
    write_text(join(place, "data", "other", "images.npy"), "x")
    write_text(join(place, "letters", "to-my-aunt"), "x")
    outside = read_remote_files(old)
    assert outside is not None
    said = gc(workspace, dry_run=True)
    assert f"state/searches/{old.name}" in said
    assert storage.exists(outside.checkpoints[0])
    gc(workspace)
    assert not old.exists()
    assert not storage.exists(outside.checkpoints[0])
    assert _left(place, mine) == ["baseline", "t0002"]
    for name in (theirs, join(place, "data", "other"), join(place, "data", "d"), join(place, "letters")):
        assert storage.exists(name), name


def test_data_in_storage_go_with_the_last_search_that_uses_them(workspace: Workspace, place: str) -> None:
    for seed in (1, 2):
        _search(workspace, place, seed)
    gc(workspace, keep=1)
    assert storage.exists(join(place, "data", "d"))
    gc(workspace)
    assert not storage.exists(join(place, "data", "d"))


def test_note_that_cannot_be_read_removes_nothing_from_storage(workspace: Workspace, place: str) -> None:
    old = _search(workspace, place, 1)
    (old / NOTE).write_text("{")
    gc(workspace)
    assert len(storage.list_dir(join(place, "searches"), 4)) == 4


@pytest.mark.slow
def test_search_stays_while_its_bucket_does_not_answer(
    workspace: Workspace, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, old = _search(workspace, f"s3://{BUCKET}/away"), _search(workspace, f"s3://{BUCKET}/away", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    said = gc(workspace)
    assert f"kept     checkpoints of search {mine.name[:8]}: s3://" in said
    assert f"kept     state/searches/{old.name}: s3://" in said
    assert "does not answer" in said
    assert "nothing to remove" in said
    assert old.exists()
    assert "> " in "\n".join(describe_searches(workspace))
    assert "does not answer" in "\n".join(describe_search(workspace, old.name))


def test_status_counts_what_lies_in_storage(workspace: Workspace, place: str) -> None:
    folder = _search(workspace, place)
    said = "\n".join(describe_search(workspace, folder.name))
    outside = read_remote_files(folder)
    assert outside is not None
    assert f"storage {outside.checkpoints[0]} (4.0 kB)" in said
