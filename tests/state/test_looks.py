"""Claims about looks: a set of networks not judged together before is one, the same again is none, whatever is torn."""

import json
import random
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.stages.evaluate.__main__ import _shared_look
from pipeline.state.looks import (
    describe_look,
    hash_networks,
    read_comparison_look,
    record_look,
    warn_of_look,
    write_comparison_look,
)
from pipeline.workspace import Workspace


def look(state: Path, networks: Collection[str], data_hash: str = "d", **prior: int | None) -> int:
    return record_look(state, data_hash, networks, commit="c", by="evaluate", **prior)  # type: ignore[arg-type]


def readings(state: Path, *lines: str) -> None:
    with (state / "test_reads.jsonl").open("a") as file:
        file.write("".join(lines))


READING = '{"data_hash": "d", "time": 1.5, "commit": "c", "models": 10}'


def test_same_networks_again_are_none_and_more_seeds_are_one(tmp_path: Path) -> None:
    five = [f"{arm}{seed}" for arm in ("best", "control") for seed in range(5)]
    ten = [f"{arm}{seed}" for arm in ("best", "control") for seed in range(10)]
    assert [look(tmp_path, networks) for networks in (five, five[::-1], five, ten, five, ten)] == [1, 1, 1, 2, 1, 2]
    lines = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert [(line["look"], len(line["networks"])) for line in lines] == [(1, 10), (2, 20)]
    assert {*lines[0]} == {"data_hash", "look", "networks", "by", "time", "commit"}


def test_a_set_within_an_earlier_one_is_none_and_one_across_two_is_one(tmp_path: Path) -> None:
    assert [look(tmp_path, networks) for networks in ("ab", "cd", "a", "d", "ac", "ca", "abcd")] == [
        1,
        2,
        1,
        2,
        3,
        3,
        4,
    ]


def test_other_data_have_looks_of_their_own(tmp_path: Path) -> None:
    assert [look(tmp_path, "a", each) for each in ("ab", "abc", "ab", "abc")] == [1, 1, 1, 1]
    assert [look(tmp_path, "b", each) for each in ("ab", "abc")] == [2, 2]


def test_numbers_are_those_of_a_list_of_sets(tmp_path: Path) -> None:
    """Against a slow restatement, on random sets."""
    rng = random.Random(0)
    judged: list[set[str]] = []
    for _ in range(60):
        networks = set(rng.sample("abcde", rng.randint(1, 4)))
        number = next((place for place, others in enumerate(judged, 1) if all(each in others for each in networks)), 0)
        if not number:
            judged.append(networks)
            number = len(judged)
        assert look(tmp_path, networks) == number


def test_readings_of_earlier_versions_are_looks_of_unknown_networks(tmp_path: Path) -> None:
    readings(tmp_path, READING + "\n", READING.replace('"d"', '"e"') + "\n", READING + "\n")
    assert [look(tmp_path, "a"), look(tmp_path, "a"), look(tmp_path, "a", "e"), look(tmp_path, "b")] == [3, 3, 2, 4]
    readings(tmp_path, READING + "\n")  # by an earlier version, in the same checkout
    assert [look(tmp_path, "a"), look(tmp_path, "c")] == [3, 6]


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ("", 0),
        ('{"data_hash": "d", "ti', 0),
        ('{"data_hash": "d", "ti' + READING + "\n", 1),  # the next reading was written behind what was torn
        ('{"data_hash": "d", "ti\n' + READING + "\n", 1),
        (READING + "\n" + '{"commit": "\\"data_hash\\": \\"d\\""}\n' + READING[:-1], 1),
        ("[]\nnull\n3\n\n{}\n\x00\n" + READING + "\n", 1),
    ],
)
def test_torn_readings_are_left_out_and_the_whole_ones_counted(tmp_path: Path, content: str, count: int) -> None:
    readings(tmp_path, content)
    assert look(tmp_path, "a") == count + 1


@pytest.mark.parametrize(
    "torn", ['{"data_hash": "d", "look": 7, "netw', '{"data_hash": "d", "look": 7}\n', "[1]\n", "\xff"]
)
def test_torn_looks_are_left_out_and_swallow_no_other(tmp_path: Path, torn: str) -> None:
    assert look(tmp_path, "a") == 1
    with (tmp_path / "looks.jsonl").open("ab") as file:
        file.write(torn.encode("latin-1"))
    assert [look(tmp_path, name) for name in "bcab"] == [2, 3, 1, 2]


def test_what_is_known_otherwise_counts_where_the_state_is_gone(tmp_path: Path) -> None:
    assert look(tmp_path, "ab", counted=4) == 5
    assert look(tmp_path, "ab", counted=4) == 5
    assert look(tmp_path, "cd", counted=4, prior=2) == 2
    assert look(tmp_path, "c") == 2
    assert look(tmp_path, "ef") == 6


def test_of_two_numbers_of_the_same_networks_the_first_is_theirs(tmp_path: Path) -> None:
    assert look(tmp_path, "ab", counted=4) == 5
    assert look(tmp_path, "ab", prior=3) == 3


def test_looks_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda name: look(tmp_path, [name]), "abcdefgh"))
    assert sorted(numbers) == list(range(1, 9))


def test_a_look_needs_networks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one network"):
        look(tmp_path, [])
    assert not (tmp_path / "looks.jsonl").exists()


def test_the_hash_of_a_set_knows_no_order() -> None:
    assert hash_networks(["a", "b"]) == hash_networks(["b", "a", "b"])
    assert len({hash_networks(each) for each in (["ab"], ["a", "b"], ["a"], ['a", "b'])}) == 4


def test_from_the_second_look_on_it_is_said_that_no_error_rate_holds() -> None:
    assert [warn_of_look(number) for number in (0, 1)] == ["", ""]
    assert warn_of_look(2).startswith("Look 2: other networks were tested on these images before. ")
    assert "New test images give a first look; " in warn_of_look(2)
    assert describe_look(1) == "This is look 1 at these test images."


def test_networks_of_a_comparison_have_its_look_and_name_their_first(tmp_path: Path) -> None:
    assert warn_of_look(3, 1) == warn_of_look(3).replace(
        "Look 3", "Look 3 (these networks were first tested at look 1)"
    )
    assert warn_of_look(3).startswith("Look 3: other networks were tested on these images before.")
    assert describe_look(3, 1) == ("This is look 3 at these test images (these networks were first tested at look 1).")
    with pytest.raises(UserError, match=r"look\.json: cannot be read .*Repeat `sar-search compare --run`"):
        read_comparison_look(tmp_path)
    write_comparison_look(tmp_path, 3)
    assert read_comparison_look(tmp_path) == 3


def test_evaluation_of_a_method_has_the_look_of_its_comparison(tmp_path: Path) -> None:
    alone, method = Workspace(tmp_path, tmp_path), Workspace(tmp_path, tmp_path, tmp_path / "compare" / "sar")
    assert _shared_look(alone, 1) == (1, None)
    write_comparison_look(tmp_path / "compare", 3)
    assert _shared_look(method, 1) == (3, 1)
    assert _shared_look(method, 3) == (3, None)
