"""Claims about searches that an earlier version began: seen, left as they are, and begun anew beside them."""

import os
from pathlib import Path

import pytest
from support.search_state import content_of, make_workspace, other, write_earlier_search, write_search

from pipeline.config import load_params
from pipeline.state.current_search import current_search
from pipeline.state.earlier_searches import earlier_search_of, find_earlier
from pipeline.state.searches import find_searches, search_directory
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


def test_search_of_the_same_parameters_has_a_folder_of_its_own(workspace: Workspace) -> None:
    content = content_of(workspace)
    earlier = write_earlier_search(workspace)
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    name, folder = search_directory(workspace.searches, content)
    assert folder != earlier
    assert folder.name == name[:16]
    assert find_searches(workspace.searches).searches == []
    assert {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()} == before


def test_it_is_recognised_where_its_fingerprint_was_another(workspace: Workspace) -> None:
    content = content_of(workspace)
    earlier = write_earlier_search(workspace)
    moved = earlier.rename(earlier.with_name("0" * 16))
    assert earlier_search_of(workspace.searches, content) == moved
    assert earlier_search_of(workspace.searches, other(content, 5)) is None
    assert search_directory(workspace.searches, content)[1] == earlier


def test_they_are_listed_the_newest_first(workspace: Workspace) -> None:
    content = content_of(workspace)
    folders = [write_earlier_search(workspace, other(content, seed)) for seed in (1, 2, 3)]
    for folder, age in zip(folders, (30, 10, 20), strict=True):
        os.utime(folder / "ledger.jsonl", (1e9 - age, 1e9 - age))
    assert find_earlier(workspace.searches) == [folders[1], folders[2], folders[0]]


def test_search_of_this_version_is_none_of_them(workspace: Workspace) -> None:
    folder = write_search(workspace)
    (folder / "ledger.jsonl").touch()
    assert find_earlier(workspace.searches) == []
    present = current_search(workspace, load_params(workspace.params))
    assert present is not None
    assert present.folder == folder


@pytest.mark.parametrize("text", ["", "x\n", "[]\n", '{"content": 1}\n', '{"event": "search"}\n'])
def test_unreadable_one_is_listed_and_is_of_no_parameters(workspace: Workspace, text: str) -> None:
    earlier = write_earlier_search(workspace)
    (earlier / "ledger.jsonl").write_text(text)
    assert find_earlier(workspace.searches) == [earlier]
    assert earlier_search_of(workspace.searches, content_of(workspace)) is None
