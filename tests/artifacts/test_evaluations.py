"""Evaluations by arm and seed: rows follow the seeds, whatever the order in which runs were written down."""

import numpy as np

from pipeline.artifacts.evaluations import correct_by_arm, has_shared_seeds, seeds_by_arm

NAMES = ["ids", "labels", "best-seed10", "my-seed9-seed2", "best-seed2", "my-seed9-seed10", "other-seed3"]


def test_seeds_rise_and_other_names_are_passed_over() -> None:
    assert seeds_by_arm(NAMES, "my-seed9") == {"best": [2, 10], "my-seed9": [2, 10]}
    assert has_shared_seeds(NAMES, "my-seed9")
    assert not has_shared_seeds(NAMES, "other")
    assert not has_shared_seeds([*NAMES, "best-seed3"], "my-seed9")


def test_rows_of_both_arms_are_in_the_order_of_the_seeds() -> None:
    right, wrong = np.array([[0.1, 0.9]]), np.array([[0.9, 0.1]])
    predictions = {"labels": np.array([1]), "best-seed10": right, "best-seed2": wrong, "plain-seed2": wrong, "plain-seed10": right}  # fmt: skip
    correct = correct_by_arm(predictions, "plain")
    assert correct["best"].tolist() == correct["plain"].tolist() == [[False], [True]]
