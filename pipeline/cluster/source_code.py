"""The code that nodes run: this process's own, sent along, so that what is installed there does not matter."""

import hashlib
import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

import pipeline

ROOT = Path(pipeline.__file__).parent


def stage_code(folder: Path, plugins: Iterable[str] = ()) -> None:
    """Copy what trials run into a folder: this package and the users' own methods; no data, no `.git`, no secrets.

    plugins: modules of users' methods. Of a module in a package, the whole package goes along.
    """
    _copy(ROOT, folder / ROOT.name)
    for top in {module.partition(".")[0] for module in plugins}:
        found = importlib.util.find_spec(top)
        if found is None:
            continue  # the plan has refused it before
        for place in found.submodule_search_locations or []:
            _copy(Path(place), folder / top)
        if found.origin and not found.submodule_search_locations:
            shutil.copyfile(found.origin, folder / f"{top}.py")


def code_digest(root: Path = ROOT) -> str:
    """Twelve hex digits of the SHA-256 over all Python files below a folder, with their names."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".git"))
