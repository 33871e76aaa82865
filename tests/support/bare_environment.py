"""An environment that has some packages and what they require, linked from the one that runs the tests: no network."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, packages: Iterable[str]) -> Path:
    """Makes an environment without pip, and returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", query], check=True, capture_output=True, text=True).stdout.strip())
    for found in _with_requirements(packages):
        for entry in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            target = Path(str(found.locate_file(entry)))
            if target.exists() and not (site / entry).exists():
                (site / entry).symlink_to(target)
    return python


def _with_requirements(packages: Iterable[str]) -> list[Distribution]:
    """The packages and all that they require here, extras left out."""
    found: dict[str, Distribution] = {}
    queue = [(canonicalize_name(package), "") for package in packages]
    seen = set(queue)
    while queue:
        package, extra = queue.pop()
        found.setdefault(package, distribution(package))
        for line in found[package].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                more = [(canonicalize_name(needed.name), each) for each in ("", *sorted(needed.extras))]
                queue += [each for each in more if each not in seen]
                seen.update(more)
    return list(found.values())
