"""A registry for each file of tests, and in it a model of its own for each test."""

from pathlib import Path

import pytest
from support.registered_versions import Place

from pipeline.tracking.store import Store, prepare_store, resolve_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = resolve_store("sqlite:///mlflow.db", tmp_path_factory.mktemp("store"))
    prepare_store(made)
    return made


@pytest.fixture
def place(tmp_path: Path, store: Store, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, store, str(request.node.name).removeprefix("test_").replace("[", "-").replace("]", ""))
