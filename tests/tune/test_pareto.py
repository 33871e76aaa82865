"""Claims about Pareto dominance, against a restatement of the definition."""

import numpy as np
import pytest

from pipeline.tune.objectives import pareto
from pipeline.tune.objectives.pareto import count_dominating


def restated(values: list[list[float]]) -> list[int]:
    """Setting by setting, objective by objective."""
    counts = []
    for one in values:
        beaten = 0
        for other in values:
            nowhere_worse, somewhere_better = True, False
            for a, b in zip(one, other, strict=True):
                if b < a:
                    nowhere_worse = False
                if b > a:
                    somewhere_better = True
            beaten += nowhere_worse and somewhere_better
        counts.append(beaten)
    return counts


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_dominated_by_counts_what_is_nowhere_worse_and_somewhere_better(
    objectives: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pareto, "ROWS_AT_ONCE", 7)
    # Few different values, so that there are equal ones.
    values = np.random.default_rng(objectives).integers(0, 5, (count, objectives)).astype(float).tolist()
    assert count_dominating(values).tolist() == restated(values)


def test_equal_settings_do_not_dominate_each_other_and_of_none_there_is_no_front() -> None:
    assert count_dominating([[1.0, 2.0], [1.0, 2.0]]).tolist() == [0, 0]
    assert count_dominating([]).tolist() == []
