"""Claims about a run's checkpoints in storage: the newest whole one is found, in a folder and in a bucket."""

from pathlib import Path

import pytest
from support.s3_store import s3_environment, s3_store_of_a_module  # noqa: F401
from support.services import BUCKET

from pipeline.cluster.checkpoint_store import CheckpointStore
from pipeline.cluster.storage import join, write_text


@pytest.fixture(params=["folder", "bucket"])
def epochs(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(join(str(tmp_path) if request.param == "folder" else f"s3://{BUCKET}", "retrain", "abc"))


def write(folder: Path, text: str) -> None:
    (folder / "weights").write_text(text)
    (folder / "checkpoint.json").write_text("{}")


def write_and_fail(epochs: CheckpointStore, epoch: int) -> None:
    with epochs.write(epoch) as folder:
        write(folder, "second")
        raise OSError("full")


def test_newest_checkpoint_is_found_and_older_ones_go(epochs: CheckpointStore) -> None:
    with epochs.newest() as found:
        assert found == (0, None)
    for epoch in (1, 2, 10):
        with epochs.write(epoch) as folder:
            assert not list(folder.iterdir())
            write(folder, str(epoch))
    assert epochs.done() == 10
    with epochs.newest() as (done, folder):
        assert done == 10
        assert folder is not None
        assert (folder / "weights").read_text() == "10"
        assert (folder / "checkpoint.json").exists()
    assert epochs._epochs() == [10]
    epochs.clear()
    assert epochs.done() == 0
    epochs.clear()  # there is nothing left to remove


def test_checkpoint_that_was_cut_off_is_none(epochs: CheckpointStore) -> None:
    with epochs.write(1) as folder:
        write(folder, "whole")
    write_text(join(epochs.place, "epoch-000002", "weights"), "cut off")
    assert epochs.done() == 1
    with epochs.write(2) as folder:
        write(folder, "whole again")
    with epochs.newest() as (done, found):
        assert done == 2
        assert found is not None
        assert (found / "weights").read_text() == "whole again"
    epochs.clear()


def test_failure_is_noted_until_it_is_forgotten(epochs: CheckpointStore) -> None:
    epochs.forget_failure()
    assert epochs.failure() is None
    epochs.note_failure("train.lr is too high")
    assert epochs.failure() == "train.lr is too high"
    epochs.forget_failure()
    assert epochs.failure() is None


def test_nothing_is_kept_of_a_checkpoint_whose_writing_failed(epochs: CheckpointStore) -> None:
    with epochs.write(1) as folder:
        write(folder, "first")
    with pytest.raises(OSError, match="full"):
        write_and_fail(epochs, 2)
    assert epochs.done() == 1
    epochs.clear()
