"""The code that nodes run: this process's own, sent along, so that what is installed there does not matter."""

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.provenance.code_hash import ROOT


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


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".git"))
