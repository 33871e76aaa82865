"""Shared storage, a folder or a bucket: the same from both, and what is wrong with a bucket said in a sentence."""

import os
import pickle
import time
from pathlib import Path

import pytest
from mlflow_server import free_port
from pyarrow.fs import S3FileSystem
from support.s3_store import s3_environment, s3_store_of_a_module  # noqa: F401
from support.services import BUCKET, S3_KEYS, s3_store

from pipeline.cluster import storage
from pipeline.cluster.storage import StorageError


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, s3: str, tmp_path: Path) -> str:
    name = "".join(character for character in request.node.name if character.isalnum())
    return str(tmp_path / "shared") if request.param == "folder" else f"s3://{BUCKET}/{name}"


def _fill(place: str, *names: str) -> None:
    for name in names:
        storage.write_text(storage.join(place, name), name)


def test_what_was_written_is_there_and_can_be_read(place: str) -> None:
    assert not storage.exists(place)
    _fill(place, "one/two")
    assert storage.read_text(storage.join(place, "one", "two")) == "one/two"
    assert storage.exists(place)
    assert storage.exists(storage.join(place, "one"))
    assert not storage.exists(storage.join(place, "on"))
    with pytest.raises(FileNotFoundError):
        storage.read_text(storage.join(place, "three"))


def test_listing_gives_what_lies_so_many_steps_below(place: str) -> None:
    _fill(place, "start-0/t1/checkpoint_0/weights", "start-0/t2/checkpoint_1/weights", "start-1/log")
    assert storage.list_dir(place) == [storage.join(place, name) for name in ("start-0", "start-1")]
    expected = ["start-0/t1/checkpoint_0", "start-0/t2/checkpoint_1"]
    assert storage.list_dir(place, 3) == [storage.join(place, name) for name in expected]
    assert storage.list_dir(storage.join(place, "none")) == []


def test_removing_takes_what_was_named_and_nothing_that_begins_alike(place: str) -> None:
    names = ["start-0/t1/checkpoint_1/w", "start-0/t1/checkpoint_10/w", "start-0/t2/checkpoint_1/w"]
    _fill(place, *names)
    gone = [storage.join(place, "start-0/t1/checkpoint_1"), storage.join(place, "start-0/t1/checkpoint_7")]
    storage.remove(gone)
    storage.remove(gone[:1])
    left = storage.list_dir(place, 3)
    assert left == [storage.join(place, name.removesuffix("/w")) for name in sorted(names)[1:]]


def test_of_many_those_that_are_there_go(place: str) -> None:
    _fill(place, *(f"start-{number % 3}/t{number}/checkpoint_0/w" for number in range(12)))
    addresses = [storage.join(place, f"start-{n % 3}/t{n}/checkpoint_0") for n in range(2, 40)]
    storage.remove(addresses)
    assert storage.list_dir(place, 3) == [storage.join(place, f"start-{n}/t{n}/checkpoint_0") for n in range(2)]


def test_size_is_that_of_everything_below(place: str) -> None:
    assert storage.size(place) == 0
    _fill(place, "a", "deep/er/bc")
    assert storage.size(place) == len("a") + len("deep/er/bc")


def test_copies_come_back_as_they_were(place: str, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "here").write_bytes(content)
    storage.copy_in(tmp_path / "here", storage.join(place, "folder", "deep", "file"))
    storage.copy_out(storage.join(place, "folder", "deep", "file"), tmp_path / "back" / "file")
    assert (tmp_path / "back" / "file").read_bytes() == content
    with storage.local_copy(storage.join(place, "folder")) as folder:
        assert (folder / "deep" / "file").read_bytes() == content


def test_workers_are_handed_what_leads_to_a_bucket_and_nothing_for_a_folder(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/only/here")
    assert storage.worker_environment("/mnt/shared") == storage.worker_environment(None) == {}
    assert storage.worker_environment(f"s3://{BUCKET}/x") == S3_KEYS | {"AWS_ENDPOINT_URL": s3}


def _refused(address: str) -> str:
    began = time.monotonic()
    with pytest.raises(StorageError) as refused:
        storage.check_storage(address, named_by="params.yaml: search.cluster.storage")
    assert time.monotonic() - began < 20
    said = str(refused.value)
    assert said.startswith(f"params.yaml: search.cluster.storage: {address}: ")
    assert "testing" not in said
    return said


def test_bucket_that_is_there_is_taken_and_one_that_is_not_is_told(s3: str, tmp_path: Path) -> None:
    storage.check_storage(f"s3://{BUCKET}/any/prefix", named_by="")
    assert "there is no bucket nosuch at " in _refused("s3://nosuch/prefix")
    storage.check_storage(str(tmp_path), named_by="")
    assert "no such folder" in _refused(str(tmp_path / "none"))


@pytest.mark.parametrize("address", ["gs://bucket/x", "s3://", "s3:///x", "s3://key:secret@bucket/x", "s3://Upper/x"])
def test_address_that_is_neither_a_folder_nor_a_bucket_is_told(s3: str, address: str) -> None:
    with pytest.raises(StorageError, match=r"^here: .*s3://bucket/prefix"):
        storage.check_storage(address, named_by="here")


def test_store_that_does_not_answer_is_told_within_seconds(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert "does not answer. Is it up, and is AWS_ENDPOINT_URL right?" in _refused(f"s3://{BUCKET}/x")


def test_file_system_that_is_sent_to_a_worker_holds_no_secret_and_finds_its_way_there(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_text(f"s3://{BUCKET}/sent/file", "x")
    filesystem, path = storage.filesystem_of(f"s3://{BUCKET}/sent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    sent = pickle.dumps(filesystem)
    assert b"testing" not in sent
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    there = pickle.loads(sent)
    assert path == f"{BUCKET}/sent"
    assert there.get_file_info(f"{path}/file").size == 1
    assert isinstance(there, S3FileSystem)


def test_no_credentials_and_wrong_ones_are_told(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1")  # the one that makes the bucket; then keys are looked at
    with s3_store(tmp_path_factory.mktemp("closed"), BUCKET) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert "denies access with these credentials" in _refused(f"s3://{BUCKET}/x")
        for name in S3_KEYS:
            monkeypatch.delenv(name)
        assert "no credentials. Set AWS_ACCESS_KEY_ID" in _refused(f"s3://{BUCKET}/x")
