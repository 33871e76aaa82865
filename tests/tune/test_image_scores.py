"""The record of what each validation image counts for in each trial."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tune.journal.image_scores import (
    EARLIER,
    SCORES,
    ImageScores,
    pack_scores,
    read_scores,
    scores_path,
    unpack_scores,
)


@given(st.lists(st.booleans(), max_size=300))
def test_what_is_packed_comes_back(flags: list[bool]) -> None:
    assert unpack_scores(pack_scores(flags)).tolist() == flags


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_numbers_come_back_as_they_are(values: list[float]) -> None:
    assert unpack_scores(pack_scores(np.array(values))).tolist() == values


def test_a_search_of_an_earlier_version_goes_on_under_its_name(tmp_path: Path) -> None:
    (tmp_path / EARLIER).write_text(json.dumps({"trial": "a", "epoch": 1, "correct": "3:oA=="}) + "\n")
    ImageScores(scores_path(tmp_path)).add("b", 1, pack_scores([True]))
    assert not (tmp_path / SCORES).exists()
    found = read_scores(tmp_path)
    assert np.asarray(found.at("a", 1)).tolist() == [True, False, True]
    assert np.asarray(found.at("b", 1)).tolist() == [True]


@pytest.mark.parametrize("text", ["", "9:/w==", "x:/w==", "8:?", "float32:2:AAAAAA==", "float32:x:", "float32:1:AAA="])
def test_what_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_scores(text)


def test_it_outlives_the_process_and_the_first_of_an_epoch_stays(tmp_path: Path) -> None:
    kept = ImageScores(tmp_path / SCORES)
    kept.add("t0001", 3, pack_scores([True, False, True]))
    kept.add("t0001", 3, pack_scores([False, False, False]))
    again = ImageScores(tmp_path / SCORES)
    again.add("t0001", 3, pack_scores([False] * 3))
    again.add("t0001", 8, pack_scores([True] * 3))
    found = read_scores(tmp_path)
    assert [np.asarray(found.at("t0001", epoch)).tolist() for epoch in (3, 8)] == [[True, False, True], [True] * 3]
    assert found.at("t0001", 6) is None
    assert found.at("t0002", 3) is None


def test_cut_anywhere_it_gives_what_was_whole(tmp_path: Path) -> None:
    path = tmp_path / SCORES
    for number in range(3):
        ImageScores(path).add(f"t{number}", 1, pack_scores([True, False] * 5))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        ends = whole[:length].count(b"\n")
        assert [read_scores(tmp_path).at(f"t{n}", 1) is not None for n in range(3)] == [n < ends for n in range(3)]
        ImageScores(path).add("t9", 1, pack_scores([True]))
        assert np.asarray(read_scores(tmp_path).at("t9", 1)).tolist() == [True]


def test_a_damaged_line_costs_that_line_alone(tmp_path: Path) -> None:
    lines = [json.dumps({"trial": "a", "epoch": 1, "scores": "8:?"}), "{", "[]"]
    lines += [json.dumps({"trial": "b", "epoch": 2, "scores": pack_scores([True])})]
    (tmp_path / SCORES).write_text("\n".join(lines) + "\n")
    found = read_scores(tmp_path)
    assert found.at("a", 1) is None
    assert found.at("b", 2) is not None
