"""Information from git about a checkout, and the reason in words if git fails."""

import os
import shlex
import subprocess
from pathlib import Path

from pipeline.errors import UserError


def run_git(root: Path, *arguments: str) -> str:
    """Returns the output of a git command in a checkout.

    Args:
        root: Folder of the checkout.
        arguments: Arguments of git.

    Raises:
        UserError: git fails. The message has the reason and what to do.
    """
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except OSError:
        raise UserError("git is not installed") from None
    if done.returncode:
        raise UserError(_reason(root, done.stderr))
    return done.stdout


def git_problem(root: Path) -> str | None:
    """Returns the reason why git cannot determine the checkout's commit; None if it can.

    Args:
        root: Folder of the checkout.
    """
    try:
        run_git(root, "rev-parse", "--verify", "HEAD")
    except UserError as error:
        return str(error)
    return None


def unknown_files(root: Path, *paths: str) -> list[str]:
    """Returns the YAML files that git does not track among these files and folders; none if git fails.

    Args:
        root: Folder of the checkout.
        paths: Files and folders, relative to it.
    """
    try:
        listed = run_git(root, "ls-files", "-z", "--others", "--", *paths)
    except UserError:
        return []
    return [name for name in listed.split("\0") if name.endswith(".yaml")]


def check_for_dvc(root: Path) -> None:
    """Checks that DVC can start: it needs a git repository, unless it is configured to work without one.

    Args:
        root: Folder of the checkout.

    Raises:
        UserError: there is no repository. The message says what to type.
    """
    if not (root / ".dvc").is_dir() or any((folder / ".git").exists() for folder in (root, *root.parents)):
        return
    from dvc.config import Config

    if not Config(str(root / ".dvc"))["core"].get("no_scm", False):
        raise UserError(
            f"{root}: is not a git repository, which DVC needs. Type `git init` there; or, to do without git and "
            "without `dvc exp`, `dvc config --local core.no_scm true`."
        )


def _reason(root: Path, said: str) -> str:
    if "dubious ownership" in said or "safe.directory" in said:
        return (
            f"{root} belongs to another user, so git does not open it; if you trust it, type "
            f"`git config --global --add safe.directory {shlex.quote(str(root))}`"
        )
    if "not a git repository" in said:
        return f"{root}: not a git repository"
    if "HEAD" in said or "single revision" in said:
        return f"{root}: a git repository without a commit"
    return f"{root}: git fails: {' '.join(said.split())[:200]}"
