"""Looks at test images, by the hash of their data, in `state/looks.jsonl`: which networks were judged together on them.

A look is a set of networks that have not been judged together on these images before. Each one is another result that
somebody may choose by, and from the second on no error rate of a test holds. The same networks again tell nothing new:
a set that lies within one that was judged before is no look, and has the number of the first such one. A network is
known by the hash of its file of weights, since on a CPU the same run gives the same weights.

    looks.jsonl       a line a look: data_hash, look (its number), networks, by, time, commit
    test_reads.jsonl  written by earlier versions, a line a reading: each is a look of networks that are not known
"""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pipeline.files.locks import locked

LOOKS = "looks.jsonl"
READS = "test_reads.jsonl"
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
    """Write down that networks are judged together on test images, before they are, and return which look it is.

    Args:
        state: The folder of state.
        data_hash: The hash of the data that the test images are of.
        networks: What each network is known by.
        commit: The commit of the code.
        by: What judges them.
        counted: How many looks are known otherwise, should state/ have been removed.
        prior: The number of the look at these very networks, where that is known otherwise.

    Raises:
        ValueError: no networks.
        UserError: another process has been writing looks for a minute.
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
    """A SHA-256 that stands for a set of networks, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(set(networks))).encode()).hexdigest()


def warn_of_look(number: int) -> str:
    """What comes before a verdict, or before what the gate says; "" at the first look."""
    return "" if number < 2 else f"Look {number} at these test images: no error rate holds."


def describe_look(number: int) -> str:
    """Which look it was, in a sentence."""
    return f"This is look {number} at these test images."


def _read_looks(path: Path, data_hash: str) -> Iterator[tuple[int, frozenset[str]]]:
    """Number and networks of every look at these images; what is torn or is none is left out."""
    for line in _lines(path):
        try:
            content = json.loads(line)
            if content["data_hash"] == data_hash and isinstance(content["networks"], list):
                yield int(content["look"]), frozenset(map(str, content["networks"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # torn by a crash in the middle of writing


def _count_reads(path: Path, data_hash: str) -> int:
    return sum(_hash_of_read(line) == data_hash for line in _lines(path))


def _hash_of_read(line: str) -> str | None:
    # Behind a line that was torn, the next one was written without a break: it begins where the last brace does.
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
