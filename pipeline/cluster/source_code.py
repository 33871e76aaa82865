"""Source code for the nodes of a cluster.

The driver sends its own, so installed versions on the nodes play no part.
"""

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.provenance.code_hash import ROOT


def stage_code(folder: Path, plugins: Iterable[str] = ()) -> None:
    """Copies the code that trials run into a folder: this package and the users' own methods.

    Data, `.git` and secrets are not copied.

    Args:
        folder: the target, an existing folder.
        plugins: names of the modules with users' methods. For a module in a package, the whole package is
            copied.
    """
    _copy(ROOT, folder / ROOT.name)
    for top in {module.partition(".")[0] for module in plugins}:
        found = importlib.util.find_spec(top)
        if found is None:
            continue  # the plan has already rejected a module that does not exist
        for place in found.submodule_search_locations or []:
            _copy(Path(place), folder / top)
        if found.origin and not found.submodule_search_locations:
            shutil.copyfile(found.origin, folder / f"{top}.py")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".git"))
