"""Parcels of data: found where they lie, never taken for others, put into storage whole."""

import dataclasses
from pathlib import Path

import pytest
from mlflow_server import free_port
from support.s3_store import s3_environment, s3_store_of_a_module  # noqa: F401
from support.services import BUCKET

from pipeline.cluster.data_bundle import DataBundle, find_bundle, make_bundle, open_bundle, send_bundle
from pipeline.cluster.source_code import stage_code
from pipeline.errors import UserError
from pipeline.provenance.code_hash import code_digest


@pytest.fixture
def parcel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataBundle:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = {"prepared/images.npy": b"x" * 3_000_000, "prepared/manifest.json": b"{}", "split.json": b"[1]"}
    here = {}
    for name, content in files.items():
        here[name] = tmp_path / "here" / name
        here[name].parent.mkdir(parents=True, exist_ok=True)
        here[name].write_bytes(content)
    return make_bundle(here)


def _elsewhere(parcel: DataBundle) -> DataBundle:
    """The same parcel as a node sees it that does not have the driver's folders."""
    return dataclasses.replace(parcel, origins={name: Path("/nowhere") / name for name in parcel.origins})


def test_files_that_are_where_the_driver_has_them_are_read_there(parcel: DataBundle) -> None:
    assert find_bundle(parcel) == parcel.origins


@pytest.mark.parametrize("name", ["prepared/manifest.json", "split.json"])
def test_files_of_another_content_are_not_taken_for_these(parcel: DataBundle, name: str) -> None:
    parcel.origins[name].write_bytes(b"?" * parcel.sizes[name])
    assert find_bundle(parcel) is None


def test_large_file_of_another_size_is_not_taken_for_this_one(parcel: DataBundle) -> None:
    parcel.origins["prepared/images.npy"].write_bytes(b"x")
    assert find_bundle(parcel) is None


def test_data_above_the_limit_go_through_storage_once(parcel: DataBundle, tmp_path: Path) -> None:
    sent = send_bundle(parcel, limit_bytes=10, storage=str(tmp_path / "shared"))
    found = open_bundle(_elsewhere(sent))
    assert all(path.is_relative_to(tmp_path / "shared") for path in found.values())
    assert {n: p.read_bytes() for n, p in found.items()} == {n: p.read_bytes() for n, p in parcel.origins.items()}
    written = found["split.json"].stat().st_mtime_ns
    again = send_bundle(parcel, limit_bytes=10, storage=str(tmp_path / "shared"))
    assert open_bundle(_elsewhere(again))["split.json"].stat().st_mtime_ns == written


def test_data_above_the_limit_are_fetched_out_of_a_bucket_once_a_node(
    parcel: DataBundle, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = send_bundle(parcel, limit_bytes=10, storage=f"s3://{BUCKET}/sar")
    contents = {name: path.read_bytes() for name, path in parcel.origins.items()}
    found = open_bundle(_elsewhere(sent))
    assert {name: path.read_bytes() for name, path in found.items()} == contents
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert open_bundle(_elsewhere(sent)) == found


def test_data_above_the_limit_are_refused_without_storage(parcel: DataBundle) -> None:
    with pytest.raises(UserError, match=r"search\.cluster\.ship_limit_mb: the data are 3 MB"):
        send_bundle(parcel, limit_bytes=10, storage=None)


def test_data_that_are_nowhere_are_an_error_and_never_silence(parcel: DataBundle) -> None:
    assert find_bundle(_elsewhere(parcel)) is None
    with pytest.raises(UserError, match=r"does not have the data: .*See search\.cluster\.storage"):
        open_bundle(_elsewhere(parcel))


def test_parcel_of_other_data_has_another_key(parcel: DataBundle) -> None:
    parcel.origins["split.json"].write_bytes(b"[2]")
    assert make_bundle(parcel.origins).key != parcel.key


def test_code_that_is_sent_is_this_code_and_the_users_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "methods_of_mine" / "deep").mkdir(parents=True)
    for name in ("methods_of_mine/__init__.py", "methods_of_mine/deep/__init__.py", "single_of_mine.py"):
        (own / name).write_text("")
    monkeypatch.syspath_prepend(str(own))
    stage_code(tmp_path / "staged", ["methods_of_mine.deep", "single_of_mine"])
    there = {path.relative_to(tmp_path / "staged").parts[0] for path in (tmp_path / "staged").rglob("*")}
    assert there == {"pipeline", "methods_of_mine", "single_of_mine.py"}
    assert (tmp_path / "staged" / "methods_of_mine" / "deep" / "__init__.py").exists()
    assert code_digest(tmp_path / "staged" / "pipeline") == code_digest()
    assert not list((tmp_path / "staged").rglob("__pycache__"))
