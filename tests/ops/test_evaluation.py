"""What `evaluate` does about masks and about the ledger of test reads; its figures are tested in tests/score."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.ops.evaluation import count_test_read, usable_masks


def _data(masks: Any) -> Any:
    split = SimpleNamespace(val=np.array([0, 1]), test=np.array([2, 3]))
    return SimpleNamespace(prepared=SimpleNamespace(masks=masks), split=split)


def _masks(*names: str) -> Any:
    kinds = {"both": [[0, 1]], "object": [[1, 1]], "background": [[0, 0]], "undecided": [[255, 255]]}
    return np.array([kinds[name] for name in names], dtype=np.uint8)


@pytest.mark.parametrize(
    "names",
    [
        ("object", "background", "both", "both"),
        ("both", "both", "undecided", "object"),
        ("undecided", "undecided", "undecided", "undecided"),
    ],
)
def test_masks_without_object_and_background_in_val_and_test_are_not_scored(names: tuple[str, ...]) -> None:
    assert usable_masks(_data(_masks(*names))) is None


def test_masks_are_scored_when_one_in_val_and_one_in_test_hold_both() -> None:
    masks = _masks("both", "undecided", "background", "both")
    assert usable_masks(_data(masks)) is masks
    assert usable_masks(_data(None)) is None


def test_test_reads_are_counted_by_data_hash_alone(tmp_path: Path) -> None:
    def read(data_hash: str) -> int:
        return count_test_read(tmp_path, data_hash, commit="c", models=2)

    assert [read("ab"), read("ab"), read("abc"), read("ab")] == [1, 2, 1, 3]
    with (tmp_path / "test_reads.jsonl").open("a") as file:
        file.write('{"data_hash": "ab", "ti\n' + json.dumps({"commit": '"data_hash": "ab"'}) + "\n")
    assert read("ab") == 4
