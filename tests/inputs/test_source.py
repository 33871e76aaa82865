"""Claims about the root that params.yaml names: where it is looked for, and that its changes do not go unseen."""

import os
from pathlib import Path

import pytest
from support.picture_sets import picture, pictures, write_archive, write_folder

from pipeline.config import Params
from pipeline.data.prepare.reader import open_source
from pipeline.data.prepare.writer import write_prepared
from pipeline.errors import UserError
from pipeline.inputs.source import check_source_unchanged, note_source, preview_source, source_config
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path)


def params(**prepare: object) -> Params:
    chosen = {"dataset": "image_folder", "root": "photos", "image_size": 8, **prepare}
    return Params().with_values({f"prepare.{name}": value for name, value in chosen.items()}, where="test")


def prepare(workspace: Workspace, chosen: Params) -> None:
    """What the stage does."""
    found = preview_source(workspace, chosen)
    source = open_source(source_config(workspace, chosen))
    manifest = write_prepared(source, workspace.prepared, work=workspace.state / "prepare")
    note_source(workspace, chosen, found, manifest["data_hash"])


def test_relative_root_starts_at_the_checkout_and_then_where_its_state_is(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "copy", tmp_path / "checkout")
    for root in (workspace.root, workspace.anchor):
        root.mkdir()
    assert source_config(workspace, params()).root == tmp_path / "checkout" / "photos"
    (tmp_path / "copy" / "photos").mkdir()
    assert source_config(workspace, params()).root == tmp_path / "copy" / "photos"
    assert source_config(workspace, params(root="/photos")).root == Path("/photos")


@pytest.mark.parametrize("root", ["photos", "photos.tar"])
def test_unchanged_pictures_are_let_through(workspace: Workspace, root: str) -> None:
    files = pictures({"cat": 3, "dog": 3})
    (write_folder if root == "photos" else write_archive)(workspace.root / root, files)
    chosen = params(root=root)
    check_source_unchanged(workspace, chosen, preview_source(workspace, chosen))
    prepare(workspace, chosen)
    check_source_unchanged(workspace, chosen, preview_source(workspace, chosen))


def test_changed_pictures_are_told_with_the_command_that_takes_them(workspace: Workspace) -> None:
    root = write_folder(workspace.root / "photos", pictures({"cat": 3, "dog": 3}))
    prepare(workspace, params())
    (root / "cat" / "new.png").write_bytes(picture(9))
    with pytest.raises(
        UserError, match=r"photos: has changed .*6 pictures then, 7 now.*\n.*dvc repro --single-item --force prepare"
    ):
        check_source_unchanged(workspace, params(), preview_source(workspace, params()))
    prepare(workspace, params())
    check_source_unchanged(workspace, params(), preview_source(workspace, params()))


def test_pictures_written_anew_are_told_apart_from_other_pictures(workspace: Workspace) -> None:
    root = write_folder(workspace.root / "photos", pictures({"cat": 3, "dog": 3}))
    prepare(workspace, params())
    os.utime(root / "cat" / next(iter(os.listdir(root / "cat"))), (1, 1))
    with pytest.raises(
        UserError, match=r"same number of pictures, 6, but .*times differ.*\n.*nothing is trained again"
    ):
        check_source_unchanged(workspace, params(), preview_source(workspace, params()))


def test_changed_parameters_are_for_dvc_to_see(workspace: Workspace) -> None:
    root = write_folder(workspace.root / "photos", pictures({"cat": 3, "dog": 3}))
    prepare(workspace, params())
    (root / "cat" / "new.png").write_bytes(picture(9))
    check_source_unchanged(workspace, params(image_size=9), preview_source(workspace, params(image_size=9)))


def test_pictures_that_are_gone_are_missed_only_until_they_are_prepared(workspace: Workspace) -> None:
    root = write_archive(workspace.root / "photos.tar", pictures({"cat": 3, "dog": 4}))
    chosen = params(root="photos.tar")
    prepare(workspace, chosen)
    root.unlink()
    found = preview_source(workspace, chosen)
    assert (found.images, found.classes, found.channels) == (7, ("cat", "dog"), 3)
    assert found.class_counts == (3, 4)
    check_source_unchanged(workspace, chosen, found)
    with pytest.raises(UserError, match="No such file or directory"):
        preview_source(workspace, params(root="photos.tar", image_size=9))


def test_torn_notes_are_no_hindrance(workspace: Workspace) -> None:
    write_folder(workspace.root / "photos", pictures({"cat": 3, "dog": 3}))
    prepare(workspace, params())
    (workspace.state / "prepare" / "sources.json").write_text("{")
    check_source_unchanged(workspace, params(), preview_source(workspace, params()))
    prepare(workspace, params())


def test_missing_root_is_told_with_its_whole_path_and_what_has_nearly_its_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "messy", pictures({"cat": 3, "dog": 3}))
    (tmp_path / "checkout").mkdir()
    workspace = Workspace(tmp_path / "checkout", tmp_path / "checkout")
    with pytest.raises(UserError) as refusal:
        preview_source(workspace, params(root="../mesy"))
    assert f"prepare.root: {tmp_path}/mesy: No such file or directory. There is {tmp_path}/messy. Set" in str(
        refusal.value
    )
    with pytest.raises(UserError, match=r"directory\. Set it to"):
        preview_source(workspace, params(root="../elsewhere"))


def test_masks_and_doubtful_files_are_counted_before_anything_is_read(workspace: Workspace) -> None:
    files = pictures({"cat": 3, "dog": 3})
    root = write_folder(workspace.root / "photos", files | {"masks/cat/1.png": picture(), "dog/notes.txt": b"words"})
    found = preview_source(workspace, params())
    assert (found.masks, found.objects) == (1, "1 with a mask")
    assert "dog/notes.txt (no picture by its name)" in found.doubts[0]
    (root / "masks" / "cat" / "1.png").unlink()
    (root / "masks" / "cat").rmdir()
    (root / "masks").rmdir()
    (root / "boxes.csv").write_text("file,left,top,right,bottom\n")
    assert preview_source(workspace, params()).objects == "with boxes"
    assert preview_source(workspace, Params()).objects == "1,797 with a mask"


@pytest.mark.parametrize("root", ["data/photos", "data/prepared", "state", "results/../models/x.tar"])
def test_root_where_the_pipeline_writes_is_refused(workspace: Workspace, root: str) -> None:
    with pytest.raises(UserError, match=r"prepare\.root: .* lies in \w+/, which the pipeline writes"):
        source_config(workspace, params(root=root))
