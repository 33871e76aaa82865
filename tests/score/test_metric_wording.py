"""Claims about other metrics than accuracy: endpoints in their direction, and sentences in their words and units."""

from dataclasses import replace

import pytest
from support.comparisons import comparison

from pipeline.score.comparison import Comparison, compare_values
from pipeline.score.endpoints import Endpoint, decide_endpoints, endpoint_names
from pipeline.score.metrics.metric import LOG_LOSS, MACRO_F1, METRICS
from pipeline.score.metrics.wording import ACCURACY_WORDS, MetricWords, words_of
from pipeline.score.verdict import write_verdict

F1, LOSS = MACRO_F1.words, LOG_LOSS.words
COST = MetricWords("my:cost", "metric", "cost of errors", 50.0, lower_is_better=True)
BETTER = comparison(0.281, 0.03, control=0.617)


def decided(metric: Comparison, words: MetricWords, **beside: Comparison) -> dict[str, Endpoint]:
    found = decide_endpoints(metric, margin=words.margin, words=words, **beside)
    return {endpoint.name: endpoint for endpoint in found}


def say(metric: Comparison, words: MetricWords, **beside: Comparison) -> list[str]:
    found = decide_endpoints(metric, margin=words.margin, words=words, **beside)
    return write_verdict(found, metric, margin=words.margin, words=words, **beside)


def test_names_are_the_metrics_own_and_those_of_accuracy_stay() -> None:
    assert endpoint_names(ACCURACY_WORDS) == ("accuracy_not_worse", "accuracy_higher", "accuracy_lower")
    assert endpoint_names(F1) == ("macro_f1_not_worse", "macro_f1_higher", "macro_f1_lower")
    assert endpoint_names(LOSS) == ("log_loss_not_worse", "log_loss_lower", "log_loss_higher")


def test_less_is_better_turns_every_endpoint_and_no_interval() -> None:
    lower = decided(comparison(-0.05, 0.01, control=0.4), LOSS, attention=BETTER)
    assert lower["log_loss_not_worse"].shown
    assert lower["log_loss_lower"].shown
    assert not lower["log_loss_higher"].shown
    assert (lower["log_loss_lower"].low or 0) < (lower["log_loss_lower"].high or 0) < 0
    higher = decided(comparison(0.05, 0.01, control=0.4), LOSS, attention=BETTER)
    assert [name for name, each in higher.items() if each.shown] == ["attention_auroc", "log_loss_higher"]
    # By symmetry the same as of a metric of which more is better.
    mirrored = decided(comparison(0.05, 0.01, control=0.4), replace(LOSS, lower_is_better=False), attention=BETTER)
    assert mirrored["log_loss_not_worse"].p == pytest.approx(lower["log_loss_not_worse"].p)
    assert mirrored["log_loss_higher"].p == pytest.approx(lower["log_loss_lower"].p)


def test_log_loss_is_no_second_endpoint_beside_itself() -> None:
    found = decided(comparison(-0.05, 0.01, control=0.4), LOSS)
    assert list(found) == ["log_loss_not_worse", "log_loss_lower", "log_loss_higher"]
    assert found["log_loss_lower"].tested
    assert found["log_loss_lower"].shown
    unclear = decided(comparison(0.0, 0.03, control=0.4), LOSS)
    assert not unclear["log_loss_lower"].tested
    with pytest.raises(ValueError, match="besides macro-F1"):
        decided(comparison(0.0, 0.03), F1)


def test_points_are_told_of_shares_and_plain_numbers_of_others() -> None:
    assert say(comparison(0.012, 0.003), F1, attention=BETTER)[0] == (
        "Macro-F1: higher by 1.2 points (95 % interval +0.5 to +1.9)."
    )
    assert say(comparison(-0.001, 0.0022), F1, attention=BETTER)[0] == (
        "Macro-F1: no loss of more than 2 points (-0.1, 95 % interval -0.6 to +0.4)."
    )
    auroc = METRICS["auroc"].words
    assert say(comparison(0.012, 0.003), auroc, attention=BETTER)[0] == (
        "AUROC: higher by 0.012 (95 % interval +0.005 to +0.019)."
    )


def test_a_rise_is_the_harm_where_less_is_better() -> None:
    said = say(comparison(0.005, 0.0017, control=0.4), LOSS, attention=BETTER)
    assert said[0] == "Log loss: no rise of more than 0.02 (+0.005, 95 % interval +0.001 to +0.009)."
    assert said[1] == "Yet log loss is higher by 0.005 (95 % interval +0.001 to +0.009)."
    assert say(comparison(0.05, 0.004, control=0.4), LOSS, attention=BETTER)[0] == (
        "Log loss: higher by 0.050 (95 % interval +0.041 to +0.059)."
    )
    assert say(comparison(-0.05, 0.004, control=0.4), LOSS)[0] == (
        "Log loss: lower by 0.050 (95 % interval -0.059 to -0.041)."
    )
    assert say(comparison(0.0, 0.02, control=0.4), LOSS)[0].startswith(
        "Log loss: not enough data to tell whether it rises by more than 0.02 (+0.000, 95 % interval -0.046 to +0.046), "
        "where a difference of 0.064"
    )


def test_log_loss_after_another_metric_names_that() -> None:
    said = say(comparison(0.0, 0.02), F1, log_loss=comparison(-0.01, 0.003, control=0.4))
    assert said[1].startswith("Log loss is not tested, since a loss of macro-F1 is not ruled out: ")
    assert len(said) == 3


def test_places_follow_the_margin() -> None:
    assert COST.format_difference(12.34) == "+12"
    assert COST.format_value(1234.5) == "1234"
    assert COST.format_margin() == "50"
    assert say(comparison(-120.0, 10.0, control=900.0), COST, attention=BETTER)[0] == (
        "Cost of errors: lower by 120 (95 % interval -143 to -97)."
    )
    # An end that rounds to 0 gets a place more.
    assert F1.fine_digits(0.0004, 0.2) == 2
    assert LOSS.fine_digits(0.0004, 0.2) == 2
    assert COST.fine_digits(0.4, 20.0) == 2


def test_without_an_interval_nothing_is_shown_and_why_is_said() -> None:
    plain = compare_values([0.5, 0.7], [0.4, 0.6], images=80, note="it is declared not smooth", confidence=0.95)
    assert (plain.difference, plain.low, plain.images) == (pytest.approx(0.1), None, 80)
    assert plain.best_sd == pytest.approx(0.02**0.5)
    found = decided(plain, F1, attention=BETTER)
    assert not any(found[name].shown for name in endpoint_names(F1))
    assert say(plain, F1, attention=BETTER)[0] == (
        "Macro-F1: +10.0 points; it is declared not smooth, and nothing is shown."
    )


def test_words_are_read_back_and_are_accuracys_of_earlier_evaluations() -> None:
    assert words_of(LOSS) == LOSS
    assert words_of(None) == ACCURACY_WORDS
    assert words_of(None, margin=0.02).margin == 0.02
