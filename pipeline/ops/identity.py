"""What a result can be traced to: commit, code, versions; and the fingerprint of a search."""

import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from importlib import metadata
from operator import getitem
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pipeline
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.models.settings import Weights
from pipeline.ops.git import ask_git
from pipeline.ops.weights import OPTIONS, PRETRAINED, SOURCE, with_hashed_choices, with_hashes

BATCHES = (
    *("augment", "batches", "encoded", "kernels", "loading", "mask_kernels", "pixel_kernels", "pixels"),
    *("rand_augment", "store", "streams"),
)
DECIDING_ROOMS = (
    *(f"data/{name}.py" for name in BATCHES),
    *("compute", "models", "regularizers", "train", "tune", "assembly.py", "config.py", "sections"),
)
"""The code that decides a trial's result, given the data and the split, which have hashes of their own."""

NONE: Mapping[str, str] = MappingProxyType({})

SHORT = {"weight": "w", "threshold": "t"}
"""Parameters that come in every name."""

DECIDING_PACKAGES = ("torch", "timm", "numpy", "numba", "pillow", "scipy", "optuna", "ray")


def deciding(
    params: Params,
    space: Mapping[str, Any],
    *,
    data_hash: str,
    split_hash: str,
    weights: Mapping[str, Weights] | None = None,
) -> dict[str, Any]:
    """What decides a search's trials: data, split, seed, space, `model`, `train`, `regularizer`, sampler, scheduler;
    where they are given, also the points that come first, what is known beforehand, objectives beside val/accuracy and
    constraints: these two decide which settings are proposed, and which of them are trained.

    space: `SearchSpace.content()`. Numbers of trials, budgets, confirmation, concurrency and addresses are not in it:
    they extend a search. Nor are code and versions: when they change, the user is asked. weights: pretrained ones by
    specification, for which their hash stands here: wherever the file lies, and whatever an alias means later.
    """
    dump, known = params.model_dump(by_alias=True), weights or {}
    limits = {name: limit for name, limit in dump["search"]["constraints"].items() if limit is not None}
    del dump["train"]["workers"]  # how fast images come, not which
    for path, value in with_hashes({path: params.value(path) for path in (PRETRAINED, SOURCE, OPTIONS)}, known).items():
        *parents, leaf = path.split(".")
        reduce(getitem, parents, dump)[leaf] = value
    return {
        "data": data_hash,
        "split": split_hash,
        "seed": params.base.seed,
        "space": with_hashed_choices(space, known) if known else dict(space),
        **{section: dump[section] for section in ("model", "train", "regularizer")},
        "sampler": dump["search"]["sampler"],
        "scheduler": dump["search"]["scheduler"],
        **{key: dump["search"][key] for key in ("points", "warm_start") if dump["search"][key]},
        **({"objectives": dump["search"]["objectives"]} if params.search.objectives != ["val/accuracy"] else {}),
        **({"constraints": limits} if limits else {}),
    }


def fingerprint(content: Mapping[str, Any], generation: int = 0) -> str:
    """The hash of what decides a search's trials (`deciding`), which names the search.

    generation: how many searches of this content came before, which their user wanted to begin anew.
    """
    return content_hash({**content, "generation": generation} if generation else dict(content))


def content_hash(content: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_hash(plugins: Mapping[str, str] = NONE) -> str:
    """SHA-256 over the source files that decide a trial's result. plugins: as of `code_hashes`."""
    return content_hash(code_hashes(plugins))


def code_hashes(plugins: Mapping[str, str] = NONE) -> dict[str, str]:
    """Twelve hex digits of the SHA-256 of each source file that decides a trial's result, by its path.

    plugins: what users' own methods add to them, as `pipeline.regularizers.plugin.plugin_hashes` gives it.
    """
    root = Path(pipeline.__file__).parent
    entries = [root / name for name in DECIDING_ROOMS]
    files = [path for entry in entries for path in (sorted(entry.rglob("*.py")) if entry.is_dir() else [entry])]
    own = {
        path.relative_to(root.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in files
    }
    return own | dict(plugins)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a trial's result."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in DECIDING_PACKAGES}


def commit(root: Path) -> str:
    """The checkout's commit, with `+changes` when tracked files differ from it; `unknown` where git does not tell."""
    try:
        head = ask_git(root, "rev-parse", "HEAD").strip()
        changed = ask_git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock").strip()
    except UserError:
        return "unknown"
    return head + ("+changes" if changed else "")


def trace(root: Path, data_hash: str) -> dict[str, str]:
    """Tags that lead from a run back to what made it. Under `dvc exp` the commit is only the experiment's baseline,
    so the experiment's name goes with it.
    """
    tags = {"sar.commit": commit(root), "sar.code_hash": code_hash(), "sar.data_hash": data_hash}
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["sar.dvc_experiment"] = name
    return tags


def setting_name(values: Mapping[str, Any], *, short: bool = False) -> str:
    """A setting as a name: `weight=0.012 layers=last`, or for a narrow list `w=0.012 layers=last`."""
    leaves = Counter(path.rpartition(".")[2] for path in values)
    words = []
    for path, value in values.items():
        parent, _, leaf = path.rpartition(".")
        # Two methods' weights are told apart by their methods.
        method = f"{parent.rpartition('.')[2]}." if leaves[leaf] > 1 else ""
        words.append(f"{method}{SHORT.get(leaf, leaf) if short else leaf}={short_value(value)}")
    return " ".join(words)


def short_value(value: Any) -> str:
    """A value as names show it, numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
