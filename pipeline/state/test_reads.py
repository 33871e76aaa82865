"""How often a test set has been read, by data hash, in `state/test_reads.jsonl`.

A set that is read again and again, each time followed by a change, slowly stops being a test.
"""

import json
import time
from pathlib import Path


def count_test_read(state: Path, data_hash: str, *, commit: str, models: int, prior_reads: int = 0) -> int:
    """Write down that the test set is read now, and return how often it has been, this time included.

    prior_reads: reads before this one that are known otherwise, should state/ have been removed.
    """
    path = state / "test_reads.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"data_hash": data_hash, "time": time.time(), "commit": commit, "models": models}) + "\n")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return max(prior_reads + 1, sum(_hash_read(line) == data_hash for line in lines))


def _hash_read(line: str) -> str | None:
    try:
        return str(json.loads(line)["data_hash"])
    except (ValueError, KeyError, TypeError):
        return None  # torn by a crash in the middle of writing
