"""The simulation behind docs/benchmarks/verdicts.md, with few repetitions: what it holds for true, and what it finds."""

import numpy as np
import pytest
import verdicts
from support.comparisons import comparison
from verdicts import MARGIN, Arms, Claims, Scenario, Truth, measure_claims, measure_coverage, truths

from pipeline.score.endpoints import ATTENTION, HIGHER, LOG_LOSS, LOWER, NOT_WORSE, decide_endpoints

FEW = Scenario("few discordant", 100, 0.994, 0.003, shared=0.002, own=0.001)


def test_true_accuracies_are_those_of_very_many_images() -> None:
    rng = np.random.default_rng(0)
    for scenario in (
        Scenario("x", 4000, 0.9, 0.03, shared=0.02, own=0.01),
        Scenario("y", 4000, 0.99, 0.004, hardness=9.0),
    ):
        arms = Arms(scenario, 40)
        found = [[float((table > 0).mean()) for table in arms.draw(rng)] for _ in range(40)]
        best, control = np.mean(found, axis=0)
        assert arms.difference == pytest.approx(scenario.gain)
        assert control == pytest.approx(scenario.accuracy, abs=0.003)
        assert best - control == pytest.approx(scenario.gain, abs=0.0015)


def test_seeds_scatter_as_the_scenario_says() -> None:
    rng = np.random.default_rng(1)
    best, control = Arms(Scenario("x", 20000, shared=0.02, own=0.005, hardness=0.0, by_arm=0.0), 200).draw(rng)
    by_seed = (best > 0).mean(axis=1), (control > 0).mean(axis=1)
    assert np.std(by_seed[0]) == pytest.approx(0.0206, rel=0.2)
    # What is left of a difference: own of either arm, and the coin tosses of the images.
    assert np.std(by_seed[0] - by_seed[1]) == pytest.approx(np.sqrt(2 * 0.005**2 + 2 * 0.9 * 0.1 / 20000), rel=0.2)


def test_true_log_loss_is_that_of_very_many_draws() -> None:
    rng = np.random.default_rng(2)
    drawn = verdicts.log_loss((0.8 + 1.5 * rng.standard_normal(400_000)).astype(np.float32))
    assert verdicts.mean_log_loss(0.8, 1.5) == pytest.approx(float(drawn.mean()), rel=0.01)


def test_every_combination_of_hypotheses_is_simulated() -> None:
    for masks, second in ((True, ATTENTION), (False, LOG_LOSS)):
        wrong = {frozenset(truth.false_claims() & {NOT_WORSE, second, HIGHER, LOWER}) for truth in truths(masks)}
        accuracy = [{NOT_WORSE, HIGHER}, {HIGHER}, {HIGHER, LOWER}, {LOWER}]
        assert wrong == {frozenset(each | extra) for each in accuracy for extra in (set(), {second})}
    assert Truth(-MARGIN, 0.0).false_claims() >= {NOT_WORSE, HIGHER}


@pytest.mark.parametrize(
    ("scenario", "seeds"),
    [
        (Scenario("shared", 359, own=0.01), 5),
        (Scenario("uneven", 359, hardness=9.0, by_arm=4.0), 3),
        (Scenario("independent", 359, shared=0.0, own=0.02, formula="independent"), 5),
        (FEW, 3),
        (FEW, 10),
    ],
)
def test_intervals_cover(scenario: Scenario, seeds: int) -> None:
    found = measure_coverage(scenario, seeds, 300, np.random.default_rng(3))
    # Of 300 intervals at 95 % fewer than 269 cover once in a thousand times; the seed is fixed.
    assert found.covered >= 0.9
    if scenario.formula == "paired" and scenario.shared > 0.01:
        assert found.width < 0.95 * found.old_width


def test_false_claims_are_few_and_what_is_true_is_found() -> None:
    claims = measure_claims(5, 359, 300, np.random.default_rng(4))
    assert set(claims) == {(masks, truth) for masks in (True, False) for truth in truths(masks)}
    for (_, truth), found in claims.items():
        assert found.verdicts == 300
        assert found.share() <= 0.1
        if truth.gain > 0 and truth.second > 0:
            assert found.share() == 0
            assert found.share(NOT_WORSE) > 0.8
            assert found.share(HIGHER) > 0.2
        if truth.gain == -MARGIN:
            assert found.share(NOT_WORSE) <= 0.06


def test_a_false_claim_is_counted_once_a_verdict() -> None:
    found = Claims(Truth(0.0, 0.0))
    accuracy = comparison(0.02, 0.001)
    for attention in (comparison(0.2, 0.01), comparison(0.0, 0.1)):
        found.add(decide_endpoints(accuracy, margin=MARGIN, attention=attention))
    assert (found.share(), found.share(ATTENTION), found.share(HIGHER)) == (0.5, 0.5, 0.5)
    assert found.share(NOT_WORSE) == 1


def test_both_tables_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(verdicts, "coverage_scenarios", lambda: [FEW])
    monkeypatch.setattr(verdicts, "SEEDS", (2, 3))
    monkeypatch.setattr(verdicts, "CLAIM_CELLS", ((2, 50),))
    verdicts.main(["--repetitions", "3"])
    printed = capsys.readouterr().out
    for words in (
        "Coverage of the 95 % interval",
        "Mean width in points",
        "Verdicts with any false claim",
        "| few discordant | 100 |",
    ):
        assert words in printed
