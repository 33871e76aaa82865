"""Claims about what `sar-search datasets` lists: every set of prepare.dataset, and which are here."""

from pathlib import Path
from typing import get_args

import pytest
from support.miniature_datasets import MINIATURES, put

from pipeline.commands.datasets import describe_datasets
from pipeline.config import parameters
from pipeline.data.sources.dataset_registry import DATASETS
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    put(tmp_path / "params.yaml", "prepare: {dataset: voc2012, root: elsewhere}\n")
    return Workspace(tmp_path, tmp_path)


def rows(workspace: Workspace) -> dict[str, str]:
    return {line.split()[0]: line for line in describe_datasets(workspace) if line}


def test_every_set_that_can_be_named_is_listed(workspace: Workspace) -> None:
    found = rows(workspace)
    assert set(get_args(parameters()["prepare.dataset"].annotation)) == {"digits", "image_folder", *DATASETS}
    assert set(get_args(parameters()["prepare.dataset"].annotation)) <= set(found)
    assert "7,349       37  trimaps" in found["oxford_pets"]
    assert "CC BY-SA 4.0" in found["oxford_pets"]
    assert found["oxford_pets"].endswith("to fetch, 811 MB")
    assert found["stanford_cars"].endswith("by hand (docs/datasets.md)")


def test_sets_are_found_in_the_default_folder_and_where_the_parameters_say(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    MINIATURES["dtd"](workspace.root / "datasets", monkeypatch)
    MINIATURES["voc2012"](workspace.root / "elsewhere", monkeypatch)
    put(workspace.root / "datasets" / "food-101.tar.gz", b"")
    found = rows(workspace)
    assert found["dtd"].endswith("in datasets")
    assert found["voc2012"].endswith("in elsewhere")
    assert found["food101"].endswith("as archives in datasets")
    put(workspace.root / "params.yaml", "prepare: {dataset: oxford_pets, root: pets.tar}\n")
    put(workspace.root / "pets.tar", b"")
    assert rows(workspace)["oxford_pets"].endswith("in pets.tar")
    assert rows(workspace)["dtd"].endswith("in datasets")


def test_parameters_that_are_wrong_are_no_hindrance(workspace: Workspace) -> None:
    put(workspace.root / "params.yaml", "prepare: {dataset: what}\n")
    assert "voc2012" in rows(workspace)
