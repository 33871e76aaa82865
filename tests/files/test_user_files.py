"""Claims about files that a user hands in: what is no file is told in words, and is never waited for."""

import os
import socket
from pathlib import Path

import pytest

from pipeline.commands.predict import _payload
from pipeline.config.yaml import read_yaml
from pipeline.data.decode.open_image import open_image
from pipeline.data.decode.pictures import UndecodableImage
from pipeline.data.sources.boxes import read_boxes
from pipeline.data.splits.groups import read_table
from pipeline.errors import UserError
from pipeline.files.user_files import read_user_file, why_unreadable
from pipeline.models.weights import read_weights

KINDS = {
    "broken": "a link whose target does not exist",
    "circle": "a link that leads back to itself",
    "pipe": "a pipe",
    "socket": "a socket",
    "device": "a device",
    "folder": "a folder, where a file is needed",
}


def made(path: Path, kind: str) -> Path:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(path.parent)  # such a name may have few letters
            try:
                server.bind(path.name)
            finally:
                os.chdir(here)
    else:
        path.symlink_to({"broken": "nowhere", "circle": path.name, "device": "/dev/zero"}[kind])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_told_by_all_that_read_one(tmp_path: Path, kind: str) -> None:
    def refused(name: str) -> Path:
        return made(tmp_path / name, kind)

    assert KINDS[kind] in str(why_unreadable(refused("any")))
    with pytest.raises(OSError, match=KINDS[kind]):
        read_user_file(tmp_path / "any")
    with pytest.raises(UndecodableImage, match=KINDS[kind]):
        open_image(str(refused("1.png")), lambda image: image)
    with pytest.raises(UserError, match=rf"boxes\.csv: cannot be read \({KINDS[kind]}"):
        read_boxes(refused("boxes.csv").parent, "boxes.csv", ("cat/1.png",))
    with pytest.raises(UserError, match=rf"g\.csv: cannot be read \({KINDS[kind]}"):
        read_table(refused("g.csv"), shown_as="g.csv")
    with pytest.raises(UserError, match=f"cannot be read: {KINDS[kind]}"):
        read_yaml(refused("space.yaml"))
    with pytest.raises(ValueError, match=r"cannot be read \("):
        read_weights(refused("w.safetensors"))
    assert KINDS[kind] in str(_payload(refused("asked.png")))


def test_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_user_file(tmp_path / "link") == b"x"
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_user_file(tmp_path / "other")
