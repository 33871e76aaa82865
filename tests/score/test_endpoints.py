"""Claims about the endpoints: what is shown is what the closed testing principle shows, whatever the figures are."""

from itertools import chain, combinations

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
from support.comparisons import comparison

from pipeline.score.comparison import Comparison
from pipeline.score.endpoints import ATTENTION, HIGHER, LOG_LOSS, LOWER, NOT_WORSE, Endpoint, decide_endpoints

MARGIN, ALPHA = 0.01, 0.05


def slow_p(found: Comparison, bound: float, sign: int) -> float:
    """Two-sided p of sign * (difference - bound) > 0, by the wider interval."""
    assert found.standard_error is not None
    assert found.images_error is not None
    distance = sign * (found.difference - bound)
    each = ((found.standard_error, found.degrees_of_freedom), (found.images_error, found.images - 1))
    return max(min(1.0, 2 * float(scipy.stats.t.sf(distance / error, freedom))) for error, freedom in each)


def closed_test(p: dict[str, float], weights: dict[frozenset[str], dict[str, float]]) -> set[str]:
    """Hypotheses of which every intersection that they are part of is rejected at its weighted share of alpha."""
    names = list(p)
    every = [
        frozenset(chosen) for chosen in chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1))
    ]
    rejected = {chosen: any(p[name] < weights[chosen].get(name, 0.0) * ALPHA for name in chosen) for chosen in every}
    return {name for name in names if all(rejected[chosen] for chosen in every if name in chosen)}


def holm_then(first: str, second: str, last: str) -> dict[frozenset[str], dict[str, float]]:
    """Half of alpha to either of two, all of it to the one that is left, and to the last where both are gone."""
    half = {first: 0.5, second: 0.5}
    return {
        frozenset({first, second, last}): half,
        frozenset({first, second}): half,
        frozenset({first, last}): {first: 1.0},
        frozenset({second, last}): {second: 1.0},
        **{frozenset({name}): {name: 1.0} for name in (first, second, last)},
    }


def in_order(names: list[str]) -> dict[frozenset[str], dict[str, float]]:
    """All of alpha to the earliest."""
    every = chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1))
    return {frozenset(chosen): {chosen[0]: 1.0} for chosen in every}


def drawn(rng: np.random.Generator, scale: float, mean: float = 1.0) -> Comparison:
    return comparison(
        scale * rng.normal(mean, 1.5),
        scale * rng.uniform(0.2, 1.0),
        images_error=scale * rng.uniform(0.1, 1.0),
        freedom=rng.uniform(2, 50),
    )


def shown(endpoints: list[Endpoint]) -> set[str]:
    return {endpoint.name for endpoint in endpoints if endpoint.shown}


def test_with_masks_what_is_shown_is_the_closed_test_of_holm_and_then_higher() -> None:
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(1500):
        accuracy, attention = drawn(rng, 0.01), drawn(rng, 0.1)
        p = {
            NOT_WORSE: slow_p(accuracy, -MARGIN, 1),
            ATTENTION: slow_p(attention, 0.0, 1),
            HIGHER: slow_p(accuracy, 0.0, 1),
        }
        found = decide_endpoints(accuracy, margin=MARGIN, attention=attention)
        expected = closed_test(p, holm_then(NOT_WORSE, ATTENTION, HIGHER))
        assert shown(found) - {LOWER} == expected
        assert (LOWER in shown(found)) == (slow_p(accuracy, 0.0, -1) < ALPHA)
        outcomes.add(frozenset(shown(found)))
    assert len(outcomes) >= 6  # nearly every one that can be: none, A, B, A and B, all, and a loss


def test_without_masks_what_is_shown_is_the_closed_test_in_order() -> None:
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(1500):
        accuracy, losses = drawn(rng, 0.01), drawn(rng, 0.1, -1.0)
        p = {
            NOT_WORSE: slow_p(accuracy, -MARGIN, 1),
            LOG_LOSS: slow_p(losses, 0.0, -1),
            HIGHER: slow_p(accuracy, 0.0, 1),
        }
        found = decide_endpoints(accuracy, margin=MARGIN, log_loss=losses)
        assert shown(found) - {LOWER} == closed_test(p, in_order([NOT_WORSE, LOG_LOSS, HIGHER]))
        outcomes.add(frozenset(shown(found)))
    assert len(outcomes) >= 5


def test_every_endpoint_has_the_interval_that_decided_it() -> None:
    rng = np.random.default_rng(2)
    levels = set()
    for _ in range(500):
        accuracy, attention = drawn(rng, 0.01), drawn(rng, 0.1)
        for endpoint in decide_endpoints(accuracy, margin=MARGIN, attention=attention):
            assert endpoint.low is not None
            assert endpoint.high is not None
            bound = -MARGIN if endpoint.name == NOT_WORSE else 0.0
            beyond = endpoint.high < 0 if endpoint.name == LOWER else endpoint.low > bound
            assert endpoint.shown == (endpoint.tested and beyond)
            assert endpoint.p is not None
            assert beyond == (endpoint.p < 1 - endpoint.level)
            levels.add((endpoint.name, round(endpoint.level, 6)))
    both = {0.95, 0.975}
    assert levels == {
        (HIGHER, 0.95),
        (LOWER, 0.95),
        *((name, level) for name in (NOT_WORSE, ATTENTION) for level in both),
    }


def test_levels_are_holms() -> None:
    # p of accuracy about .03, of attention about .03 or .001: alone neither is shown, with a clear one both are.
    near, clear = comparison(0.012, 0.01, freedom=1e6), comparison(0.4, 0.1, freedom=1e6)
    just = comparison(0.22, 0.1, freedom=1e6)
    both = decide_endpoints(near, margin=MARGIN, attention=clear)
    assert [each.level for each in both[:2]] == pytest.approx([0.95, 0.975])
    assert shown(both) == {NOT_WORSE, ATTENTION}
    neither = decide_endpoints(near, margin=MARGIN, attention=just)
    assert [each.level for each in neither[:2]] == pytest.approx([0.975, 0.975])
    assert shown(neither) == set()
    assert [each.tested for each in neither] == [True, True, False, True]


def test_without_an_interval_nothing_is_shown() -> None:
    accuracy = comparison(0.2, None)
    for second in ({"attention": comparison(0.2, None)}, {"log_loss": comparison(-0.2, None)}):
        found = decide_endpoints(accuracy, margin=MARGIN, **second)
        assert shown(found) == set()
        assert all(each.p is each.low is each.high is each.detectable is None for each in found)
    # Attention that cannot be tested leaves accuracy its half of alpha.
    found = decide_endpoints(comparison(0.0, 0.001, freedom=50), margin=MARGIN, attention=comparison(0.2, None))
    assert shown(found) == {NOT_WORSE}
    assert found[0].level == pytest.approx(0.975)


def test_a_loss_within_the_margin_is_shown_beside_no_greater_one() -> None:
    found = decide_endpoints(comparison(-0.004, 0.001), margin=MARGIN, attention=comparison(0.2, 0.01))
    assert shown(found) == {NOT_WORSE, ATTENTION, LOWER}


@pytest.mark.parametrize("margin", [0.0, -0.01])
def test_a_margin_that_is_not_above_0_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        decide_endpoints(comparison(0.0, 0.1), margin=margin, attention=comparison(0.0, 0.1))


def test_a_second_endpoint_is_needed() -> None:
    with pytest.raises(ValueError, match="either attention or log loss"):
        decide_endpoints(comparison(0.0, 0.1), margin=MARGIN)
