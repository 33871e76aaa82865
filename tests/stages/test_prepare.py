"""Claims about the prepare stage with named sets: what it prints, what it leaves, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.miniature_datasets import MINIATURES, mask, pack, put
from support.offline import refuse_network
from support.picture_sets import encoded, picture, pictures, write_folder

from pipeline.config import load_params
from pipeline.data.prepared.prepared import open_prepared
from pipeline.errors import UserError
from pipeline.inputs.source import check_source_unchanged, preview_source
from pipeline.stages.prepare.__main__ import main
from pipeline.workspace import Workspace

DIES = """
import os, signal
from pipeline.data.prepare import writer as writing
from pipeline.entry import run_stage
from pipeline.stages.prepare.__main__ import main

record = writing._record

def then_die(place, state, arrays):
    record(place, state, arrays)
    if state.done:
        os.kill(os.getpid(), signal.SIGKILL)

writing.RECORD_EVERY_S, writing._record = 0.0, then_die
run_stage("prepare", main)
"""
"""The stage, killed as soon as it has noted a part of its work: a kill by the clock may come when all is done."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_network(monkeypatch)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path)


def ask(workspace: Workspace, **prepare: object) -> None:
    put(workspace.params, json.dumps({"prepare": {"image_size": 8, **prepare}}))


def test_known_set_is_found_in_the_default_folder_and_what_is_odd_is_printed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MINIATURES["oxford_pets"](workspace.root / "datasets", monkeypatch)
    pets = workspace.root / "datasets" / "oxford-iiit-pet"
    put(pets / "images" / "Abyssinian_trainval0.jpg", picture(1, (12, 10), "GIF"))
    put(pets / "annotations" / "trimaps" / "Abyssinian_trainval0.png", mask(2, 2))
    ask(workspace, dataset="oxford_pets")
    main(workspace)
    said = capsys.readouterr().out
    assert "labels: the set's own labels 0, 5 are numbered 0 to 1 here" in said
    assert "a GIF named .jpg: 1 file (oxford-iiit-pet/images/Abyssinian_trainval0.jpg)" in said
    assert (
        "a mask without object: 1 file (oxford-iiit-pet/annotations/trimaps/Abyssinian_trainval0.png). Attention"
        in said
    )
    assert "WARNING" not in said
    assert "oxford_pets: 12 images, 2 classes -> data/prepared" in said
    assert open_prepared(workspace.prepared).classes == ("Abyssinian", "American Bulldog")


@pytest.mark.parametrize("share", [0.5, 0.6, 1.0])
def test_masks_most_of_which_tell_nothing_are_warned_of_last(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    files = pictures({"cat": 5, "dog": 5})
    trimap = encoded(Image.fromarray(np.array([[1, 2]] * 8, dtype=np.uint8).repeat(5, axis=1)))
    good = encoded(Image.fromarray(np.array([[0, 1]] * 8, dtype=np.uint8).repeat(5, axis=1)))
    masks = {f"masks/{name}": trimap if place < share * 10 else good for place, name in enumerate(files)}
    write_folder(workspace.root / "photos", files | masks)
    ask(workspace, dataset="image_folder", root="photos")
    main(workspace)
    said = " ".join(capsys.readouterr().out.split())
    assert "(a trimap?): " in said
    assert "convert it to 0 background, 1 object, 255 undecided (docs/own-images/decoding.md)" in said
    assert (f"WARNING: {share * 10:.0f} of 10 masks do not show where the object is" in said) == (share > 0.5)
    assert ("attention is scored against the others alone" in said, "attention cannot be scored." in said) == (
        share == 0.6,
        share == 1.0,
    )


def test_known_set_that_changes_is_noticed_and_one_that_goes_is_not_missed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES["dtd"](workspace.root / "datasets", monkeypatch)
    ask(workspace, dataset="dtd")
    main(workspace)
    params = load_params(workspace.params)
    check_source_unchanged(workspace, params, preview_source(workspace, params))
    put(next((workspace.root / "datasets" / "dtd").rglob("*.jpg")), picture(99, (20, 20), "JPEG"))
    with pytest.raises(UserError, match="datasets: has changed since data/prepared was made from it"):
        check_source_unchanged(workspace, params, preview_source(workspace, params))
    (workspace.root / "datasets").rename(workspace.root / "gone")
    assert preview_source(workspace, params).images == 12
    ask(workspace, dataset="dtd", download=True)  # which changes nothing of what is there
    assert preview_source(workspace, load_params(workspace.params)).images in (12, 5640)


def test_large_set_is_kept_encoded(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["food101"](workspace.root / "sets", monkeypatch)
    ask(workspace, dataset="food101", root="sets", array_limit_gb=0.0)
    main(workspace)
    assert (workspace.prepared / "images.bin").exists()
    assert open_prepared(workspace.prepared).images[:].shape == (12, 8, 8, 3)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ({"dataset": "cifar10"}, r"datasets: cifar10 \(CIFAR-10\) is not there"),
        ({"dataset": "cifar10", "download": True}, "cannot be fetched from www.cs.toronto.edu"),
        ({"dataset": "stanford_cars", "download": True}, "its own address is gone"),
        ({"dataset": "imagenet", "root": "nowhere"}, "nowhere: imagenet .* is not there"),
        (
            {"dataset": "digits", "class_list": "x"},
            r"prepare\.class_list: cannot be used with prepare\.dataset: digits",
        ),
        ({"dataset": "image_folder", "root": "x", "class_list": "x"}, r"prepare\.class_list: cannot be used with"),
        ({"dataset": "dtd", "root": "data/sets"}, "lies in data/, which the pipeline writes and cleans"),
    ],
)
def test_set_that_cannot_be_had_is_refused_with_status_2(
    workspace: Workspace, prepare: dict[str, object], said: str
) -> None:
    ask(workspace, **prepare)
    with pytest.raises(UserError, match=said) as refusal:
        main(workspace)
    assert refusal.value.exit_code == 2
    assert not workspace.prepared.exists()
    assert not [path for path in workspace.root.rglob("*") if path.is_file() and path != workspace.params]


def test_truncated_archive_of_a_set_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    MINIATURES["dtd"](workspace.root / "made", monkeypatch)
    archive = pack(workspace.root / "made", workspace.root / "dtd.tar")
    archive.write_bytes(archive.read_bytes()[:9000])
    ask(workspace, dataset="dtd", root="dtd.tar")
    with pytest.raises(UserError, match=r"dtd\.tar: cannot be read as an archive .*Is it complete"):
        main(workspace)


@pytest.mark.slow
def test_prepare_that_is_killed_leaves_nothing_and_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES["oxford_pets"](workspace.root / "datasets", monkeypatch)
    pets = workspace.root / "datasets" / "oxford-iiit-pet"
    lines, content, trimap = "", picture(1, (64, 64), "JPEG"), mask(2, 3, 1)
    for number in range(3000):
        put(pets / "images" / f"Abyssinian_{number}.jpg", content)
        put(pets / "annotations" / "trimaps" / f"Abyssinian_{number}.png", trimap)
        lines += f"Abyssinian_{number} 1 1 1\n"
    listed = pets / "annotations" / "trainval.txt"
    put(listed, listed.read_text() + lines)
    put(workspace.root / "dvc.yaml", "")
    ask(workspace, dataset="oxford_pets", image_size=64, skip_broken=True)  # trimaps of another size than the pictures
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", DIES], cwd=workspace.root, env=environment, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    work = workspace.state / "prepare"
    (progress,) = work.glob("*/progress.json")
    assert 0 < json.loads(progress.read_text())["done"] < 6000
    assert not workspace.prepared.exists()
    main(workspace)
    found = open_prepared(workspace.prepared)
    assert len(found.images) == 3012
    assert found.images.reshape(3012, -1).any(axis=1).all()
