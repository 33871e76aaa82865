"""The record of which validation images each trial got right."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tune.journal.correctness import CORRECT, CorrectImages, pack_correct, read_correct, unpack_correct


@given(st.lists(st.booleans(), max_size=300))
def test_what_is_packed_comes_back(flags: list[bool]) -> None:
    assert unpack_correct(pack_correct(flags)).tolist() == flags


@pytest.mark.parametrize("text", ["", "9:/w==", "x:/w==", "8:?"])
def test_what_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_correct(text)


def test_it_outlives_the_process_and_the_first_of_an_epoch_stays(tmp_path: Path) -> None:
    kept = CorrectImages(tmp_path / CORRECT)
    kept.add("t0001", 3, pack_correct([True, False, True]))
    kept.add("t0001", 3, pack_correct([False, False, False]))
    again = CorrectImages(tmp_path / CORRECT)
    again.add("t0001", 3, pack_correct([False] * 3))
    again.add("t0001", 8, pack_correct([True] * 3))
    found = read_correct(tmp_path)
    assert [np.asarray(found.at("t0001", epoch)).tolist() for epoch in (3, 8)] == [[True, False, True], [True] * 3]
    assert found.at("t0001", 6) is None
    assert found.at("t0002", 3) is None


def test_cut_anywhere_it_gives_what_was_whole(tmp_path: Path) -> None:
    path = tmp_path / CORRECT
    for number in range(3):
        CorrectImages(path).add(f"t{number}", 1, pack_correct([True, False] * 5))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        ends = whole[:length].count(b"\n")
        assert [read_correct(tmp_path).at(f"t{n}", 1) is not None for n in range(3)] == [n < ends for n in range(3)]
        CorrectImages(path).add("t9", 1, pack_correct([True]))
        assert np.asarray(read_correct(tmp_path).at("t9", 1)).tolist() == [True]


def test_a_damaged_line_costs_that_line_alone(tmp_path: Path) -> None:
    lines = [json.dumps({"trial": "a", "epoch": 1, "correct": "8:?"}), "{", "[]"]
    lines += [json.dumps({"trial": "b", "epoch": 2, "correct": pack_correct([True])})]
    (tmp_path / CORRECT).write_text("\n".join(lines) + "\n")
    found = read_correct(tmp_path)
    assert found.at("a", 1) is None
    assert found.at("b", 2) is not None
