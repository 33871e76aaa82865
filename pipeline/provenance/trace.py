"""Origin of a result: commit, code and versions of packages."""

import os
import platform
from importlib import metadata
from pathlib import Path

from pipeline.errors import UserError
from pipeline.provenance.code_hash import code_hash
from pipeline.provenance.git import run_git

RECORDED_PACKAGES = ("torch", "timm", "numpy", "numba", "pillow", "scipy", "optuna", "ray")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide a trial's result."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in RECORDED_PACKAGES}


def commit(root: Path) -> str:
    """Returns the checkout's commit, with `+changes` if tracked files differ from it; `unknown` if git fails.

    Args:
        root: Folder of the checkout.
    """
    try:
        head = run_git(root, "rev-parse", "HEAD").strip()
        changed = run_git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock").strip()
    except UserError:
        return "unknown"
    return head + ("+changes" if changed else "")


def trace(root: Path, data_hash: str) -> dict[str, str]:
    """Returns the tags that lead from a run back to its code and data.

    Under `dvc exp` the commit is only the experiment's baseline, so the experiment's name is a further tag.

    Args:
        root: Folder of the checkout.
        data_hash: Hash of the prepared set.
    """
    tags = {"sar.commit": commit(root), "sar.code_hash": code_hash(), "sar.data_hash": data_hash}
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["sar.dvc_experiment"] = name
    return tags
