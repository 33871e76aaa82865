"""Looks at test images, stored in `state/looks.jsonl`: which networks were judged together on which images.

A look is a set of networks that have not been judged together on these images before. Test images are identified by
the hash of their data. Each look gives another result by which somebody may choose, so from the second look on no error
rate of a test holds. Judging the same networks again gives no new information: a subset of an earlier set is no new
look, and gets the number of the first such set. A network is identified by the hash of its file of weights, because on
a CPU the same run gives the same weights.

    looks.jsonl       a line a look: data_hash, look (its number), networks, by, time, commit
    test_reads.jsonl  written by earlier versions, a line a reading. Each counts as a look of unidentified networks.
"""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.atomic import write_whole
from pipeline.files.locks import locked

LOOKS = "looks.jsonl"
READS = "test_reads.jsonl"
COMPARISON_LOOK = "look.json"
"""File of a comparison of methods, from which their evaluations take the number that all of them share."""
WAIT_S = 60.0


def record_look(
    state: Path,
    data_hash: str,
    networks: Collection[str],
    *,
    commit: str,
    by: str,
    counted: int = 0,
    prior: int | None = None,
) -> int:
    """Records that networks are going to be judged together on test images, and returns the number of the look.

    Args:
        state: Folder `state/`.
        data_hash: Hash of the data that the test images belong to.
        networks: Identifier of each network (the hash of its weights).
        commit: Commit of the code.
        by: The command or stage that judges them.
        counted: Number of looks that are recorded elsewhere, in case state/ has been removed.
        prior: Number of the look at exactly these networks, if it is recorded elsewhere; else None.

    Raises:
        ValueError: `networks` is empty.
        UserError: another process has held the file's lock for a minute.
    """
    judged = frozenset(networks)
    if not judged:
        raise ValueError("a look needs at least one network")
    path = state / LOOKS
    held = f"{path}: another process has been writing it for a minute; try again"
    with locked(path.with_suffix(".lock"), held, wait_s=WAIT_S):
        before = list(_read_looks(path, data_hash))
        numbers = [number for number, others in before if judged <= others]
        if numbers:
            return min(numbers if prior is None else [*numbers, prior])
        look = prior
        if look is None:
            found = {number for number, _ in before}
            look = 1 + max(_count_reads(state / READS, data_hash) + len(found), counted, *found)
        line = {"data_hash": data_hash, "look": look, "networks": sorted(judged), "by": by}
        _append(path, line | {"time": time.time(), "commit": commit})
    return look


def hash_networks(networks: Collection[str]) -> str:
    """Returns a SHA-256 that identifies a set of networks, whatever their order.

    Args:
        networks: Identifier of each network.
    """
    return hashlib.sha256(json.dumps(sorted(set(networks))).encode()).hexdigest()


def write_comparison_look(folder: Path, number: int) -> None:
    """Writes the number of the look at which the networks of several methods are tested together.

    Args:
        folder: Folder of the comparison.
        number: Number of the look, from 1.
    """
    write_whole(folder / COMPARISON_LOOK, json.dumps({"look": number}) + "\n")


def read_comparison_look(folder: Path) -> int:
    """Returns the number that `write_comparison_look` has written.

    Args:
        folder: Folder of the comparison.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """
    path = folder / COMPARISON_LOOK
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["look"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Repeat `sar-search compare --run`.") from None


def warn_of_look(number: int, first: int | None = None) -> str:
    """Returns the warning that precedes a verdict or the gate's outcome; "" at the first look.

    Args:
        number: Number of the look, from 1.
        first: Number of the look at which the same networks were first tested; None if that is `number`.
    """
    if number < 2:
        return ""
    return (
        f"Look {number}{_first_tested(first)}: other networks were tested on these images before. The more often that "
        "happens, the likelier is a chance result, so the levels given here are too favourable. New test images give a "
        "first look; several methods are tested in one look by `sar-search compare --run` (docs/trust.md)."
    )


def describe_look(number: int, first: int | None = None) -> str:
    """Returns a sentence with the number of the look.

    Args:
        number: Number of the look, from 1.
        first: Number of the look at which the same networks were first tested; None if that is `number`.
    """
    return f"This is look {number} at these test images{_first_tested(first)}."


def _first_tested(first: int | None) -> str:
    return "" if first is None else f" (these networks were first tested at look {first})"


def _read_looks(path: Path, data_hash: str) -> Iterator[tuple[int, frozenset[str]]]:
    """Yields number and networks of every look at these images. Truncated and invalid lines are skipped."""
    for line in _lines(path):
        try:
            content = json.loads(line)
            if content["data_hash"] == data_hash and isinstance(content["networks"], list):
                yield int(content["look"]), frozenset(map(str, content["networks"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # truncated by a crash during writing


def _count_reads(path: Path, data_hash: str) -> int:
    return sum(_hash_of_read(line) == data_hash for line in _lines(path))


def _hash_of_read(line: str) -> str | None:
    # Earlier versions wrote no line break after a truncated line, so the next entry begins at the last brace.
    for part in (line, line[max(0, line.rfind("{")) :]):
        try:
            return str(json.loads(part)["data_hash"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return None


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []


def _append(path: Path, content: Mapping[str, object]) -> None:
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * torn + json.dumps(content) + "\n")
