"""What git says of a checkout, and in words why it says nothing."""

import os
import shlex
import subprocess
from pathlib import Path

from pipeline.errors import UserError


def run_git(root: Path, *arguments: str) -> str:
    """What git answers in a checkout.

    Raises:
        UserError: it answers nothing; says why, and what to do.
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
    """Why git cannot tell the checkout's commit; None: it can."""
    try:
        run_git(root, "rev-parse", "--verify", "HEAD")
    except UserError as error:
        return str(error)
    return None


def unknown_files(root: Path, *paths: str) -> list[str]:
    """The YAML files that git does not know of these files and folders; none where git says nothing."""
    try:
        listed = run_git(root, "ls-files", "-z", "--others", "--", *paths)
    except UserError:
        return []
    return [name for name in listed.split("\0") if name.endswith(".yaml")]


def check_for_dvc(root: Path) -> None:
    """Refuse to start DVC where it would stop at once: it works in a git repository unless it is told to do without.

    Raises:
        UserError: there is none; says what to type.
    """
    if not (root / ".dvc").is_dir() or any((folder / ".git").exists() for folder in (root, *root.parents)):
        return
    from dvc.config import Config

    if not Config(str(root / ".dvc"))["core"].get("no_scm", False):
        raise UserError(
            f"{root}: not a git repository, in which DVC works. Type `git init` there; or, to do without git and "
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
