"""Log loss and calibration of the networks of a finished `sar-search compare --run`, as a second family.

Run: python benchmarks/log_loss_family.py                            # in the checkout of the comparison
     python benchmarks/log_loss_family.py /path/to/another/checkout --confidence 0.975

`compare --run` tests one metric. This script reads the test predictions that it stored, and trains and tests nothing
again. Log loss is compared with the control's for every method, in nats: p by Holm, intervals by Bonferroni, with the
stated confidence together. The expected calibration error (15 bins, mean over seeds) is described, without a test.
"""

import argparse
from pathlib import Path

import numpy as np
from harness import header, table
from numpy.typing import NDArray

from pipeline.artifacts.evaluation import Evaluation
from pipeline.artifacts.stage_results import BEST
from pipeline.score.classify import classification_scores, log_losses
from pipeline.score.comparison import compare_scores
from pipeline.score.family import compare_family


def arms_of(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Returns the probabilities of both arms' networks on the test images, (S, N, C), and the labels as `labels`, (N,).

    Args:
        folder: Results of one method's evaluation.
    """
    control = Evaluation.read(folder).control
    with np.load(folder / "predictions.npz") as stored:
        numbers, others = (
            sorted(name.removeprefix(arm) for name in stored.files if name.startswith(f"{arm}-seed"))
            for arm in (BEST, control)
        )
        if numbers != others:
            raise SystemExit(f"{folder}: the arms have other seeds, so that they cannot be compared in pairs")
        return {
            "best": np.stack([stored[BEST + number] for number in numbers]),
            "control": np.stack([stored[control + number] for number in numbers]),
            "labels": stored["labels"],
        }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(), help="where the comparison ran")
    parser.add_argument("--confidence", type=float, default=0.95, help="of all intervals together")
    given = parser.parse_args()
    folders = sorted((given.checkout / "results" / "compare").glob("*/evaluate"))
    if not folders:
        raise SystemExit(f"{given.checkout}: no results/compare/*/evaluate; `sar-search compare --run` makes them")
    found = {folder.parent.name: arms_of(folder) for folder in folders}
    losses = {
        name: (
            np.stack([log_losses(each, arms["labels"]) for each in arms["best"]]),
            np.stack([log_losses(each, arms["labels"]) for each in arms["control"]]),
        )
        for name, arms in found.items()
    }
    family = compare_family(losses, confidence=given.confidence, compare=compare_scores)
    rows: list[list[str]] = []
    for member in family:
        arms, (best, control) = found[member.name], losses[member.name]
        errors = {
            arm: float(np.mean([classification_scores(each, arms["labels"]).ece for each in arms[arm]]))
            for arm in ("best", "control")
        }
        if not rows:
            rows.append(["control", f"{control.mean():.3f}", "", "", f"{errors['control']:.3f}"])
        one = member.comparison
        span = "no interval" if one.low is None or one.high is None else f"{one.low:+.3f} to {one.high:+.3f}"
        p = "" if member.p_holm is None else f"{member.p_holm:.3f}"
        rows.append([member.name, f"{best.mean():.3f}", f"{one.difference:+.3f} ({span})", p, f"{errors['best']:.3f}"])
    print(header("Log loss of the methods against one control", ["numpy", "scipy"]))
    print(f"{len(family)} comparisons as one family; intervals hold together at {given.confidence:.1%}.\n")
    print(table(["method", "log loss", "difference", "p (Holm)", "calibration error"], rows))


if __name__ == "__main__":
    main()
