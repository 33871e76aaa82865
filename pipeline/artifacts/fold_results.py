"""What stages leave of folds: the searches outside of each, and the networks that were retrained there.

Without folds there are none of either. Each fold's own results are in folders by its number.
"""

from pathlib import Path

from pipeline.artifacts.stage_results import BestConfig, read_best
from pipeline.workspace import FOLDS, part_folder

SEARCHES = "searches.json"
"""Lists the folds' searches, in `results/search/folds/`."""


def read_fold_searches(results: Path) -> dict[int, BestConfig]:
    """What the searches outside of the folds have found, by the fold's number; nothing without folds.

    results: the folder results/.

    Raises:
        UserError: the results of one of them are not there, or broken.
    """
    folder = results / "search"
    numbers = sorted(int(path.name) for path in (folder / FOLDS).glob("*") if path.is_dir() and path.name.isdecimal())
    return {number: read_best(part_folder(folder, number)) for number in numbers}
