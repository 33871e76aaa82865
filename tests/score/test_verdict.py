"""The verdict's sentences, word for word: each with the interval that decided it, and none that says too much."""

from dataclasses import replace

import pytest
from support.comparisons import comparison

from pipeline.score.comparison import Comparison
from pipeline.score.endpoints import decide_endpoints
from pipeline.score.verdict import write_verdict

BETTER = comparison(0.281, 0.03, control=0.617)
AGAINST = "baseline, with the recipe of params.yaml"


def say(
    accuracy: Comparison,
    attention: Comparison | None = None,
    log_loss: Comparison | None = None,
    *,
    centred: float | None = 0.773,
    margin: float = 0.01,
) -> list[str]:
    endpoints = decide_endpoints(accuracy, margin=margin, attention=attention, log_loss=log_loss)
    return write_verdict(
        endpoints,
        accuracy,
        margin=margin,
        attention=attention,
        centred=centred,
        log_loss=log_loss,
        what="SAR",
        against=AGAINST,
    )


def test_what_is_shown_can_be_repeated() -> None:
    assert say(comparison(-0.001, 0.0022), BETTER) == [
        "Accuracy: no loss of more than 1 point (-0.1, 95 % interval -0.6 to +0.4).",
        "Attention finds the object better: AUROC .90 against .62 (+.28, 97.5 % interval +.20 to +.36; a Gaussian in "
        "the centre: .77).",
        "SAR is compared with its control (baseline, with the recipe of params.yaml): 5 seeds each on 360 test images.",
    ]


def test_higher_accuracy_takes_the_place_of_no_loss() -> None:
    assert say(comparison(0.012, 0.003), BETTER)[0] == "Accuracy: higher by 1.2 points (95 % interval +0.5 to +1.9)."
    # Not where attention is not shown: then it is not tested.
    unclear = comparison(0.02, 0.03, control=0.63)
    assert say(comparison(0.012, 0.003), unclear)[0] == (
        "Accuracy: no loss of more than 1 point (+1.2, 97.5 % interval +0.4 to +2.0)."
    )


def test_a_loss_is_always_said() -> None:
    assert say(comparison(-0.03, 0.005), BETTER)[0] == "Accuracy: lower by 3.0 points (95 % interval -4.2 to -1.8)."
    assert say(comparison(-0.004, 0.001), BETTER)[:2] == [
        "Accuracy: no loss of more than 1 point (-0.4, 95 % interval -0.6 to -0.2).",
        "Yet accuracy is lower by 0.4 points (95 % interval -0.6 to -0.2).",
    ]
    without = say(comparison(-0.03, 0.005), log_loss=comparison(0.01, 0.002, control=0.1))
    assert without[0] == "Accuracy: lower by 3.0 points (95 % interval -4.2 to -1.8)."


def test_what_cannot_be_told_is_not_called_absent() -> None:
    accuracy, attention = comparison(0.001, 0.006), comparison(0.02, 0.03, control=0.63)
    assert say(accuracy, attention, margin=0.005)[:2] == [
        "Accuracy: not enough data to tell whether more than 0.5 points is lost (+0.1, 97.5 % interval -1.6 to +1.8), "
        "where a difference of 2.2 points would be found four times out of five.",
        "Attention is not shown to find the object better: AUROC .65 against .63 (+.02, 97.5 % interval -.06 to +.10; a "
        "Gaussian in the centre: .77), where a difference of .11 would be found four times out of five.",
    ]
    assert not any("no difference" in sentence.lower() for sentence in say(accuracy, attention))


def test_better_than_the_control_is_not_yet_good() -> None:
    found = say(comparison(0.0, 0.001), comparison(0.106, 0.03, control=0.532), centred=0.835)[1]
    assert found == (
        "Attention finds the object better, but not yet as well as a Gaussian in the centre: AUROC .64 against .53 "
        "(+.11, 95 % interval +.04 to +.18; a Gaussian in the centre: .83)."
    )


def test_attention_that_is_worse_is_not_said_to_lack_data() -> None:
    found = say(comparison(0.0, 0.001), comparison(-0.06, 0.01, control=0.63))[1]
    assert found == (
        "Attention does not find the object better: AUROC .57 against .63 (-.06, 95 % interval -.08 to -.04; a Gaussian "
        "in the centre: .77)."
    )


@pytest.mark.parametrize(
    ("accuracy", "log_loss", "sentence"),
    [
        (0.001, -0.009, "Log loss is lower: 0.089 against 0.098 (-0.009, 95 % interval -0.014 to -0.004)."),
        (0.001, -0.002, "Log loss is not shown to be lower: 0.096 against 0.098 (-0.002, 95 % interval -0.007 to +0.003), where a difference of 0.006 would be found four times out of five."),
        (0.001, 0.009, "Log loss is not lower: 0.107 against 0.098 (+0.009, 95 % interval +0.004 to +0.014)."),
        (-0.009, -0.009, "Log loss is not tested, since a loss of accuracy is not ruled out: 0.089 against 0.098 (-0.009, 95 % interval -0.014 to -0.004)."),
    ],
)  # fmt: skip
def test_without_masks_log_loss_is_second(accuracy: float, log_loss: float, sentence: str) -> None:
    found = say(comparison(accuracy, 0.002), log_loss=comparison(log_loss, 0.002, control=0.098))
    assert sentence in found
    assert not any("Attention" in each for each in found)


def test_one_seed_has_no_interval_and_shows_nothing() -> None:
    alone = comparison(0.001, None, seeds=(1, 1))
    assert say(alone, comparison(0.2, None, control=0.6)) == [
        "Accuracy: +0.1 points; with one seed in an arm there is no interval, and nothing is shown.",
        "Attention: AUROC .80 against .60 (+.20, without an interval; a Gaussian in the centre: .77), and nothing is "
        "shown.",
        "SAR is compared with its control (baseline, with the recipe of params.yaml): 1 seed each on 360 test images.",
    ]
    assert say(alone, log_loss=comparison(-0.01, None, control=0.1))[1] == (
        "Log loss: 0.090 against 0.100, without an interval."
    )


def test_seeds_that_are_not_shared_are_named() -> None:
    for seeds, words in (((5, 3), "5 seeds against 3"), ((5, 5), "5 seeds each")):
        last = say(comparison(0.0, 0.001, seeds=seeds, layout="independent"), BETTER)[-1]
        assert last.endswith(f": {words}, which are not the same and are compared as independent, on 360 test images.")


def test_means_and_their_difference_add_up_as_printed() -> None:
    found = say(comparison(0.0, 0.001), comparison(0.2668, 0.02, control=0.6472))[1]
    assert "AUROC .914 against .647 (+.267, " in found
    found = say(comparison(0.0, 0.001), log_loss=comparison(-0.00958, 0.002, control=0.09836))[1]
    assert found.startswith("Log loss is lower: 0.0888 against 0.0984 (-0.0096, ")


def test_an_end_close_to_0_stays_on_its_side() -> None:
    # Half of this interval is 2.306 standard errors, and its lower end at +.02 points.
    assert "(95 % interval +0.02 to +" in say(comparison(0.0096, 0.0094 / 2.306), BETTER)[0]
    assert "97.5 % interval +.003 to +" in say(comparison(0.0, 0.1), comparison(0.1, 0.097 / 2.7515))[1]


def test_margins_are_named_as_they_are() -> None:
    for margin, words in ((0.02, "2 points"), (0.005, "0.5 points"), (0.11, "11 points"), (0.01, "1 point")):
        assert f"no loss of more than {words} (" in say(comparison(0.01, 0.001), comparison(0.0, 1.0), margin=margin)[0]


def test_verdict_of_folds_is_of_the_procedure() -> None:
    found = replace(comparison(-0.001, 0.0022), folds=5)
    assert say(found, BETTER)[-1] == (
        "SAR is compared with its control (baseline, with the recipe of params.yaml): 5 searches with retraining, each on "
        "4/5 of these 360 images, 5 seeds each, tested on the images left out. So these figures rate the procedure of "
        "searching and training, and no single configuration or network."
    )


def test_two_seeds_give_no_impossible_interval_but_advice() -> None:
    few = {"freedom": 1.0, "seeds": (2, 2)}
    attention = comparison(0.29, 0.0698, images_error=0.01, control=0.62, **few)
    found = say(comparison(0.01, 0.1, images_error=0.01, control=0.5, **few), attention)
    assert found[:3] == [
        "Accuracy: not enough data to tell whether more than 1 point is lost (+1.0, 97.5 % interval -50.0 to +50.0).",
        "2 seeds are too few for a useful interval of accuracy: raise retrain.seeds.",
        "Attention is not shown to find the object better: AUROC .91 against .62 (+.29, 97.5 % interval -.62 to +.38; a "
        "Gaussian in the centre: .77). 2 seeds are too few for a useful interval of AUROC of attention: raise "
        "retrain.seeds.",
    ]


def test_images_and_unbounded_metrics_are_not_taken_for_a_lack_of_seeds() -> None:
    wide = comparison(0.01, 0.2, images_error=0.2, control=0.5, freedom=9.0, images=10)
    assert "where a difference of" in say(wide, BETTER)[0]
    losses = comparison(-0.01, 0.4, images_error=0.01, control=0.1, freedom=1.0, seeds=(2, 2))
    assert "interval -5.092 to +5.072" in say(comparison(0.0, 0.001), log_loss=losses)[1]
