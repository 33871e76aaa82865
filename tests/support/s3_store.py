"""An S3 store on loopback to which the environment leads, and to nothing else."""

import os
from collections.abc import Iterator

import pytest
from support.services import BUCKET, S3_KEYS, s3_store


@pytest.fixture(scope="module", name="store")
def s3_store_of_a_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an S3 store with an empty bucket."""
    with s3_store(tmp_path_factory.mktemp("s3"), BUCKET) as endpoint:
        yield endpoint


@pytest.fixture(name="s3")
def s3_environment(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment leads to the store, and to nothing else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (S3_KEYS | {"AWS_ENDPOINT_URL": store, "HOME": "/nonexistent"}).items():
        monkeypatch.setenv(name, value)
    return store
