"""Claims about Hyperband: its brackets, and who is in which."""

from support.stopping_rules import decisions, lived, rule

from pipeline.tune.schedulers.asha import ASHA
from pipeline.tune.schedulers.hyperband import Hyperband


def test_hyperband_has_a_bracket_from_every_rung_and_trials_in_the_published_shares() -> None:
    of = rule("hyperband", epochs=81, grace_period=1, reduction_factor=3.0)
    assert isinstance(of, Hyperband)
    assert [bracket.rung_epochs for bracket in of.brackets] == [[1, 3, 9, 27], [3, 9, 27], [9, 27], [27], []]
    turn = [of.brackets.index(of.of(f"t{number:04d}")) for number in range(143)]
    assert [turn.count(index) for index in range(5)] == [81, 34, 15, 8, 5]  # table 1 of the paper
    assert of.of("t0143") is of.of("t0000")


def test_each_bracket_of_hyperband_compares_its_own_trials_alone() -> None:
    of, reports = rule("hyperband"), lived(rule("hyperband"), seed=2)
    assert isinstance(of, Hyperband)
    said = decisions(of, reports)
    for bracket in of.brackets:
        alone = ASHA(bracket.rung_epochs, 2.0, 16)
        own = [index for index, (trial, _, _) in enumerate(reports) if of.of(trial) is bracket]
        assert [said[index] for index in own] == decisions(alone, [reports[index] for index in own])
