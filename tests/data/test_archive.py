"""Claims about listings: the same names whatever the set is packed in, and no archive that must not be trusted."""

import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.picture_sets import pictures, write_archive, write_folder

from pipeline.data import archive
from pipeline.data.archive import Unreadable, format_names, list_root, read_files
from pipeline.data.sources.image_source import preview_dataset
from pipeline.data.sources.source_config import SourceConfig
from pipeline.errors import UserError

FILES = pictures({"cat": 2, "dog": 1}) | {".hidden": b"x", "__MACOSX/cat/0.png": b"x", "cat/Thumbs.db": b"x"}
NAMES = ["cat/0.png", "cat/1.png", "dog/0.png"]
KINDS = ["set.tar", "set.tar.xz", "set.tar.gz", "set.tgz", "set.zip"]


@pytest.mark.parametrize("kind", KINDS)
def test_archive_lists_names_and_sizes_without_what_desktops_leave(tmp_path: Path, kind: str) -> None:
    found = list_root(write_archive(tmp_path / kind, FILES))
    assert found.files == tuple((name, len(FILES[name])) for name in NAMES)
    assert found.folders == ("cat", "dog")


def test_folder_lists_the_same(tmp_path: Path) -> None:
    found = list_root(write_folder(tmp_path / "set", FILES))
    assert sorted(found.files) == [(name, len(FILES[name])) for name in NAMES]
    assert found.folders == ("cat", "dog")


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_an_archive_are_read_in_its_order(tmp_path: Path, kind: str) -> None:
    root = write_archive(tmp_path / kind, dict(reversed(FILES.items())))
    assert list(read_files(root, set(NAMES))) == [(name, FILES[name]) for name in reversed(NAMES)]


def test_names_that_are_written_from_here_are_the_same(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "set.tar", {"./cat/0.png": b"x", "dog//1.png": b"y"})
    assert [name for name, _ in list_root(root).files] == ["cat/0.png", "dog/1.png"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/evil.png"])
def test_name_that_leads_out_is_refused_and_nothing_is_written(tmp_path: Path, kind: str, name: str) -> None:
    root = write_archive(tmp_path / kind, [*FILES.items(), (name, b"x")])
    with pytest.raises(UserError, match=rf"{kind}: .*contains .*evil\.png, a name that leads out of the archive"):
        list_root(root, tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == [kind]


@pytest.mark.parametrize("name", ["..\\evil.png", "C:\\evil.png", "C:/evil.png"])
def test_name_that_leads_out_on_another_system_is_refused_too(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a name that leads out of the archive"):
        list_root(write_archive(tmp_path / "set.zip", {name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_tar_with_links_or_devices_is_refused_by_name(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("cat/evil.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "set.tar", "w") as packed:
        packed.addfile(member)
    with pytest.raises(UserError, match=r"contains cat/evil\.png, a link or a device"):
        list_root(tmp_path / "set.tar")


def test_zip_with_a_link_is_refused_by_name(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("cat/evil.png")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match=r"contains cat/evil\.png, a link or a device"):
        list_root(tmp_path / "set.zip")


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "set.zip", {"cat/0.png": b"x"})
    content = bytearray(root.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    root.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        list_root(root)


@pytest.mark.parametrize("kind", ["set.tar.xz", "set.tar.gz", "set.zip"])
def test_archive_that_expands_without_end_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_EXPANSION", 3)
    monkeypatch.setattr(archive, "FREE_EXPANSION", 50_000)
    root = tmp_path / kind
    write_archive(root, {"cat/0.png": bytes(5_000_000)})
    if kind == "set.zip":
        with zipfile.ZipFile(root, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("cat/0.png", bytes(5_000_000))
    with pytest.raises(UserError, match="expands to more than 3 times its size"):
        list_root(root)


def test_file_that_does_not_fit_into_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 2**20)
    for kind in ("set.tar", "set.zip"):
        root = write_archive(tmp_path / kind, {"cat/0.png": bytes(2**20 + 1), "cat/1.png": b"x"})
        first, second = [payload for _, payload in read_files(root, {"cat/0.png", "cat/1.png"})]
        assert first == Unreadable("larger than 1 MiB")
        assert second == b"x"


def test_zip_whose_file_is_damaged_says_so_of_that_file_alone(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "set.zip", {"cat/0.png": b"AAAA", "cat/1.png": b"BBBB"})
    root.write_bytes(root.read_bytes().replace(b"AAAA", b"AAAC"))
    first, second = [payload for _, payload in read_files(root, {"cat/0.png", "cat/1.png"})]
    assert isinstance(first, Unreadable)
    assert "damaged in the archive" in first.reason
    assert second == b"BBBB"


def test_tar_that_is_cut_between_two_files_is_refused(tmp_path: Path) -> None:
    bits = random.Random(0)
    root = write_archive(tmp_path / "set.tar", {f"cat/{i}.png": bits.randbytes(3000) for i in range(20)})
    root.write_bytes(root.read_bytes()[: 10 * 7 * 512])  # a header and six blocks each
    with pytest.raises(UserError, match=r"cannot be read as an archive \(it breaks off"):
        list_root(root)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "torn", "not one", "empty"])
def test_damaged_archive_is_refused(tmp_path: Path, kind: str, damage: str) -> None:
    # Drawn once for all: of 100 other bytes in a header, one draw in some 3,700 has the sum that the header names.
    bits = random.Random(0)
    root = write_archive(tmp_path / kind, {f"cat/{i}.png": bits.randbytes(3000) for i in range(20)})
    whole = root.read_bytes()
    torn = bytearray(whole)
    torn[3584 : 3584 + 100] = bits.randbytes(100)  # a header of the tar, or the middle of a compressed one
    if damage == "torn" and kind == "set.zip":
        torn[-22:] = bits.randbytes(22)
    root.write_bytes(
        {"cut": whole[: len(whole) // 2], "torn": bytes(torn), "not one": b"text" * 400, "empty": b""}[damage]
    )
    with pytest.raises(UserError, match="cannot be read as an archive"):
        list_root(root)


@pytest.mark.parametrize("kind", ["set.rar", "set.7z", "cat.jpg"])
def test_other_files_are_refused_with_the_kinds_that_can_be_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / kind).write_bytes(b"x")
    with pytest.raises(UserError, match=r"params\.yaml: prepare\.root: .*\.tar\.xz"):
        list_root(tmp_path / kind)


def test_missing_root_is_told_with_the_parameter_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"params\.yaml: prepare\.root: .*nowhere: No such file or directory\. Set it to"
    ):
        list_root(tmp_path / "nowhere")


def test_tar_that_holds_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds cat/0\.png twice"):
        list_root(write_archive(tmp_path / "set.tar", [("cat/0.png", b"x"), ("cat/0.png", b"y")]))


def test_names_that_are_not_utf_8_are_kept_and_shown_escaped(tmp_path: Path) -> None:
    name = "cat/\udcff.png"
    tar = write_archive(tmp_path / "set.tar", {name: b"x"})
    folder = write_folder(tmp_path / "set", {name: b"x"})
    for root in (tar, folder):
        assert list_root(root, tmp_path / "cache").files == ((name, 1),)
        assert list_root(root, tmp_path / "cache").files == ((name, 1),)
    assert format_names(name) == r"cat/\xff.png"


def test_names_cannot_steer_the_terminal() -> None:
    assert format_names("a\x1b[31m\nb") == r"a\x1b[31m\nb"


def test_links_between_folders_that_go_round_in_circles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"lies more than 8 folders deep\. If a link leads back"):
        list_root(tmp_path)


def test_link_to_nothing_and_pipes_are_listed_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert list_root(tmp_path).files == (("cat/gone.png", -1), ("cat/pipe.png", -1))


def test_listing_of_an_archive_is_kept_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_archive(tmp_path / "set.tar", FILES)
    first = list_root(root, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(archive, "_members", lambda root: pytest.fail("read again"))
        assert list_root(root, tmp_path / "cache") == first
    write_archive(root, FILES | {"dog/7.png": b"more"})
    assert len(list_root(root, tmp_path / "cache").files) == 4


def test_torn_kept_listing_is_no_hindrance(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "set.tar", FILES)
    first = list_root(root, tmp_path / "cache")
    for kept in (tmp_path / "cache").iterdir():
        kept.write_text('{"files": [')
    assert list_root(root, tmp_path / "cache") == first


def test_identity_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", FILES)
    first = list_root(root).identity
    assert list_root(root).identity == first
    (root / "cat" / "new.png").write_bytes(b"x")
    second = list_root(root).identity
    os.utime(root / "cat" / "new.png", (1, 1))
    assert len({first, second, list_root(root).identity}) == 3


LEFT = dict.fromkeys(("@eaDir/cat/0.png/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/0.png@SynoEAStream", "$RECYCLE.BIN/S-1-5/0.png", "System Volume Information/WPSettings.dat", "lost+found/0.png", ".@__thumb/0.png", "cat/.@__thumb/0.png", "cat/Thumbs.db", "dog/thumbs.db", "__MACOSX/cat/._0.png", "dog/._0.png", ".DS_Store", "cat/.DS_Store", "desktop.ini", ".ipynb_checkpoints/0-checkpoint.png", ".Trash-1000/files/0.png", ".AppleDouble/0.png", "#recycle/0.png", "@Recycle/0.png", "FOUND.000/0.png", "RECYCLER/S-1-5-21/0.png", "_gsdata_/0.png", "cat/0.png:Zone.Identifier", "cat/AlbumThumbs.db", "WPSettings.dat", "cat/~$0.png", "cat/0.png~", "cat/Thumbs.db ", "dog/desktop.ini."), b"x")  # fmt: skip


@pytest.mark.parametrize("kind", ["set", "set.zip", "set.tar"])
def test_what_systems_leave_is_no_class_and_no_picture_and_is_named(tmp_path: Path, kind: str) -> None:
    files = pictures({"cat": 3, "dog": 3})
    root = (write_folder if kind == "set" else write_archive)(tmp_path / kind, files | LEFT)
    for _ in range(2):  # the second time of an archive from what was kept
        found = list_root(root, tmp_path / "cache")
        assert sorted(name for name, _ in found.files) == sorted(files)
        assert found.folders == ("cat", "dog")
        assert found.leftovers["@eaDir"] == 2
        assert found.leftovers[".DS_Store"] == 2
        assert {"$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX", "._*"} <= set(found.leftovers)
        assert sum(found.leftovers.values()) == len(LEFT)
    (line,) = preview_dataset(SourceConfig("image_folder", 8, root)).notes
    assert line.startswith("left out, as hidden or left by a system: ")
    assert "@eaDir (2)" in line
    assert line.endswith("more")


@pytest.mark.parametrize(
    "name", ["lost", "found", "recycled", "recycler", "Recycler", "cat~", "~cat", "thumbs", "trash", "system", "@home"]
)
def test_ordinary_names_are_kept(tmp_path: Path, name: str) -> None:
    found = list_root(write_folder(tmp_path / "set", pictures({name: 1})))
    assert found.folders == (name,)
    assert not found.leftovers


def _zip_of(path: Path, encoding: str) -> Path:
    """A zip whose names are of a code page, as programs of another day made them: zipfile always says UTF-8."""
    name = "三毛猫".encode(encoding)
    write_archive(path, pictures({"X" * len(name): 3, "dog": 3}))
    path.write_bytes(path.read_bytes().replace(b"X" * len(name), name))
    return path


@pytest.mark.parametrize("encoding", ["cp932", "gbk"])
def test_zip_with_names_of_an_old_code_page_is_told_with_the_way_out(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(
        UserError, match=r"set\.zip: has file names in an old code page.*: 3, such as .*unzip -O cp932.*UTF-8"
    ):
        list_root(_zip_of(tmp_path / "set.zip", encoding))


def test_zip_with_names_that_are_utf8_all_the_same_is_read(tmp_path: Path) -> None:
    root = _zip_of(tmp_path / "set.zip", "utf-8")
    assert list_root(root).folders == ("三毛猫", "dog")
    assert [name for name, _ in read_files(root, {"三毛猫/0.png"})] == ["三毛猫/0.png"]


def test_a_link_to_itself_is_one_file_at_fault_and_not_the_root(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", pictures({"cat": 3, "dog": 3}))
    (root / "cat" / "self.png").symlink_to("self.png")
    assert ("cat/self.png", -1) in list_root(root).files


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set", pictures({"cat": 3, "dog": 3}))
    scandir = os.scandir

    def refuse(path: Path) -> object:  # the superuser may read everything
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(archive.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"set/dog: this folder cannot be listed \(Permission denied\)"):
        list_root(root)
