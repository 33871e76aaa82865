"""Promotion and rollback on a real registry: what is compared, what is counted, what is refused and how."""

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from support.registered_versions import COMPARISON, Place

from pipeline.cli import cli
from pipeline.errors import UserError
from pipeline.promotion import predictions, promote
from pipeline.promotion.promote import describe_models, promote_challenger, restore_champion
from pipeline.promotion.registered_version import describe_registry
from pipeline.tracking.registry.champion import history, move_champion
from pipeline.tracking.registry.versions import versions
from pipeline.tracking.store import client


def test_a_first_champion_is_made_with_who_why_and_what_the_gate_found(place: Place) -> None:
    place.register(wrong=range(40, 50))
    lines = place.promote(reason="the first")
    assert lines[-1] == f"models:/{place.name}@champion is version 1 now, the first"
    (version,) = versions(place.store, place.name)
    gate = json.loads(version.tags["sar.promoted.gate"])
    assert gate["accuracy_value"] == round(350 / 360, 4)
    assert {gate[rule] for rule in ("accuracy", "control", "calibration")} == {"passed"}
    assert {gate[rule] for rule in ("champion", "latency")} == {"not applied"}
    assert "not applied champion: there is none yet to compare with" in lines
    assert "not applied latency: not measured; no bound (promote.max_latency_ms)" in lines
    assert any("97.2 % on 360 test images, by the registered network; needed" in line for line in lines)
    assert version.tags["sar.promoted.reason"] == "the first"
    (line,) = (place.workspace.state / "promotions.jsonl").read_text().splitlines()
    assert json.loads(line)["outcome"] == "passed"
    assert place.looks == []  # its evaluation has judged it alone


def test_a_promotion_is_told_to_the_users_own_command_and_a_dry_run_is_not(place: Place) -> None:
    place.set()
    params = json.loads(place.workspace.params.read_text())
    params["tracking"]["on_promoted"] = 'echo "$SAR_EVENT $SAR_MODEL $SAR_VERSION [$SAR_PREVIOUS] $SAR_REASON" > told'
    place.workspace.params.write_text(json.dumps(params))
    version = place.register()
    list(promote_challenger(place.workspace, "why not", dry_run=True))
    assert not (place.workspace.root / "told").exists()
    list(promote_challenger(place.workspace, "why not"))
    assert (place.workspace.root / "told").read_text() == f"promoted {place.name} {version} [] why not\n"


def test_a_dry_run_judges_and_moves_nothing(place: Place) -> None:
    place.register()
    before = client(place.store).get_registered_model(place.name).tags
    assert "would be promoted" in place.promote(dry_run=True)[-1]
    assert place.champion is None
    assert client(place.store).get_registered_model(place.name).tags == before


def test_a_champion_of_the_same_test_is_compared_as_recorded(place: Place) -> None:
    place.register(wrong=range(40, 50))
    place.promote()
    place.register(wrong=range(40, 42))
    lines = place.promote()
    assert lines[0].endswith("against version 1, as recorded when it was evaluated")
    assert "+2.2 points against version 1 on the same 360 images" in "".join(lines)
    assert (place.champion, place.looks) == (2, [(1, sorted(place.hashes(1, 2)))])
    assert json.loads(versions(place.store, place.name)[1].tags["sar.promoted.gate"])["difference"] == 0.0222


def test_a_worse_challenger_is_refused_with_the_reasons(place: Place) -> None:
    place.register()
    place.promote()
    place.register(wrong=range(40, 80))
    said = place.refused()
    assert "version 2 of" in said
    assert "failed      champion: -11.1 points" in said
    assert said.count("-11.1 points") == 1  # the refusal names the rules, and does not repeat their figures
    assert said.endswith("is refused; version 1 stays champion\n  failed: champion, calibration")
    assert place.champion == 1
    last = (place.workspace.state / "promotions.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["outcome"] == "failed"


def test_a_test_that_is_too_small_is_a_third_outcome(place: Place) -> None:
    place.register(wrong=range(40, 46))
    place.promote()
    place.register(wrong=range(46, 52))
    said = place.refused()
    assert said.endswith("is undecided; version 1 stays champion\n  undecided: champion")
    assert "undecided   champion: +0.0 points" in said
    assert "enough to decide would be about 3,036 test images" in said
    assert said.count("enough to decide would be") == 1
    (margin,) = re.findall(r"`promote\.margin: (0\.\d+)`", said)  # as it can be written into params.yaml
    place.set(margin=float(margin) - 0.001)
    place.refused()
    place.set(margin=float(margin))
    place.promote()
    assert place.champion == 2


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"min_accuracy": 0.99}, "failed      accuracy: 97.2 %"),
        ({"control": "better"}, "undecided   control: +0.0 points against baseline"),
        ({"max_ece": 0.001}, "failed      calibration"),
        ({"max_latency_ms": 1e-6}, "failed      latency"),
    ],
    ids=["accuracy", "control", "calibration", "latency"],
)
def test_every_bound_of_params_refuses(place: Place, bound: dict[str, Any], said: str) -> None:
    place.register(wrong=range(40, 50))
    place.set(**bound)
    assert said in place.refused()
    assert place.champion is None


def test_a_champion_of_other_data_is_tested_anew_which_is_one_look(place: Place) -> None:
    place.register(wrong=range(40, 50), **{"sar.data_hash": "e" * 64})
    place.set(control="any")
    place.promote()
    place.register(wrong=range(40, 42))
    lines = place.promote(dry_run=True)
    assert "evaluated anew on the present test images, of which its own training may have seen some" in lines[0]
    assert "+2.2 points against version 1" in "".join(lines)
    assert len(place.looks) == 1
    place.promote()
    assert (place.champion, place.looks) == (2, [(1, sorted(place.hashes(1, 2)))])


def test_a_champion_of_another_split_is_tested_anew(place: Place) -> None:
    place.register(wrong=[40], **{"sar.split_hash": "f" * 64})
    place.promote()
    place.register()
    assert "evaluated anew" in place.promote()[0]
    assert place.looks == [(1, sorted(place.hashes(1, 2)))]


@pytest.mark.parametrize("lost", ["champion", "challenger"])
def test_predictions_that_are_gone_are_made_anew(place: Place, lost: str) -> None:
    place.register(wrong=range(40, 44), file=lost != "champion")
    if lost == "champion":
        move_champion(place.store, place.name, 1, expected=None, reason=None)
    else:
        place.promote()
    place.register(wrong=range(40, 41), file=lost != "challenger")
    lines = place.promote()
    assert "+0.8 points against version 1" in "".join(lines)
    assert "training may have seen" not in lines[0]
    alone = [(1, place.hashes(2))] if lost == "challenger" else []  # no evaluation is known, here or in MLflow
    assert place.looks == [*alone, (len(alone) + 1, sorted(place.hashes(1, 2)))]


def test_challenger_and_champion_are_a_look_and_the_challenger_after_its_evaluation_is_none(place: Place) -> None:
    place.register(wrong=range(40, 50))
    assert place.evaluated(1) == 1
    assert not any("Look" in line for line in place.promote())
    place.register(wrong=range(40, 42), file=False)
    assert place.evaluated(2) == 2
    lines = place.promote(dry_run=True)
    assert lines[1].startswith("Look 3: other networks were tested on these images before")
    assert place.looks[2:] == [(3, sorted(place.hashes(1, 2)))]
    lines = place.promote()
    assert lines[1].startswith("Look 3: ")
    assert len(place.looks) == 3
    assert json.loads(versions(place.store, place.name)[1].tags["sar.promoted.gate"])["look"] == 3
    last = (place.workspace.state / "promotions.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["look"] == 3


def test_a_look_is_written_down_before_the_networks_are_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.register(wrong=[40], **{"sar.split_hash": "f" * 64})
    place.promote()
    place.register()

    class Broken:
        def predict(self, images: Any) -> Any:
            raise RuntimeError("killed")

    monkeypatch.setattr(predictions, "load_registered", lambda *_: Broken())
    with pytest.raises(UserError, match="cannot be run on the present test images: killed"):
        place.promote()
    assert place.looks == [(1, sorted(place.hashes(1, 2)))]


def test_a_version_whose_weights_nobody_hashed_is_known_by_its_model(place: Place) -> None:
    place.register(wrong=range(40, 50), **{"sar.weights_hash": ""})
    place.promote()
    place.register(wrong=range(40, 42))
    place.promote()
    (old, _) = versions(place.store, place.name)
    assert place.looks == [(1, sorted([*place.hashes(2), f"model {old.tags['sar.model_hash']}"]))]


def test_an_undecided_first_model_is_accepted_with_the_loss_that_is_not_ruled_out(place: Place) -> None:
    comparison = COMPARISON | {"control": "baseline", "low": -0.017, "high": 0.015, "margin": 0.01, "look": 2}
    place.register(wrong=range(40, 50), **{"sar.comparison": json.dumps(comparison)})
    place.set(first_undecided="refuse")
    assert "undecided   control: +0.0 points" in place.refused()
    place.set()
    for lines in (place.promote(dry_run=True), place.promote()):
        said = "\n".join(lines)
        assert "\nLook 2: other networks were tested on these images before" in said
        assert "\nundecided, accepted control: +0.0 points against baseline (95 % interval -1.7 to +1.5 points" in said
        assert "A loss of up to 1.7 points is not ruled out, and is accepted since there is no champion" in said
        assert "enough to decide would be (if both are equally good) about" in said
    assert place.champion == 1
    gate = json.loads(versions(place.store, place.name)[0].tags["sar.promoted.gate"])
    assert (gate["control"], gate["accuracy"]) == ("undecided, accepted", "passed")
    last = json.loads((place.workspace.state / "promotions.jsonl").read_text().splitlines()[-1])
    assert last["outcome"] == "undecided, accepted"
    (control,) = [each for each in last["rules"] if each["name"] == "control"]
    assert control["outcome"] == "undecided, accepted"
    place.register(wrong=range(40, 41), **{"sar.comparison": json.dumps(comparison)})
    assert "undecided   control: +0.0 points" in place.refused()  # there is a champion now


def test_a_shown_loss_is_refused_of_a_first_model_too(place: Place) -> None:
    lost = COMPARISON | {"control": "baseline", "difference": -0.03, "low": -0.04, "high": -0.02, "margin": 0.01}
    place.register(**{"sar.comparison": json.dumps(lost)})
    assert "failed      control: -3.0 points" in place.refused()
    assert place.champion is None


def test_the_margin_against_the_control_is_the_one_of_the_evaluation(place: Place) -> None:
    wide = COMPARISON | {"control": "baseline", "low": -0.017, "high": 0.015}
    place.register(**{"sar.comparison": json.dumps(wide | {"margin": 0.02})})
    place.set(margin=0.001, first_undecided="refuse")
    assert place.promote()[-1].endswith("is version 1 now, the first")


def test_where_the_challengers_own_test_is_not_here_the_champion_cannot_be_tested(place: Place) -> None:
    place.register(**{"sar.data_hash": "e" * 64})
    place.promote()
    place.register()
    place.describe("a" * 64)
    with pytest.raises(
        UserError, match=r"tested on other images than those here \(data_hash dddddddd, here aaaaaaaa\)"
    ):
        place.promote()
    assert (place.champion, place.looks) == (1, [])


def test_the_champion_is_not_promoted_again(place: Place) -> None:
    place.register()
    place.promote()
    before = client(place.store).get_registered_model(place.name).tags
    assert place.promote() == [f"models:/{place.name}@champion is version 1 already"]
    assert client(place.store).get_registered_model(place.name).tags == before


def test_without_a_challenger_nothing_is_promoted(place: Place) -> None:
    with pytest.raises(UserError, match="has no model"):
        place.promote()
    with place.workspace.locked("make repro", lock="repro"):
        for doing in (place.promote, lambda: list(describe_models(place.workspace))):
            with pytest.raises(UserError, match="no model yet: the pipeline is running in this checkout; wait until"):
                doing()
    client(place.store).create_registered_model(place.name)
    with pytest.raises(UserError, match="no challenger"):
        place.promote()


@pytest.mark.parametrize("tag", ["sar.comparison", "sar.evaluation_run", "sar.retrain_folder"])
def test_a_version_without_the_tags_to_judge_it_by_says_what_to_run(place: Place, tag: str) -> None:
    place.register(**{tag: ""})
    with pytest.raises(UserError, match=f"has no tag {tag}\n  run `dvc repro --single-item --force register`"):
        place.promote()


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.register()
    both = threading.Barrier(2)
    usual: Callable[..., Any] = promote.move_champion

    def together(*arguments: Any, **options: Any) -> Any:
        both.wait(60)
        return usual(*arguments, **options)

    monkeypatch.setattr(promote, "move_champion", together)
    said: list[str] = []

    def go() -> None:
        try:
            said.append(place.promote()[-1])
        except UserError as error:
            said.append(str(error))

    threads = [threading.Thread(target=go) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted("is version 1 now, the first" in each for each in said) == [False, True]
    assert any("somebody else has moved it" in each for each in said)
    assert len(history(place.store, place.name)[0]) == 1


def test_a_rollback_puts_the_champion_before_back_and_models_tells_it_all(place: Place) -> None:
    place.register(wrong=range(40, 44))
    place.promote(reason="first")
    place.register()
    place.promote(reason="second")
    assert list(restore_champion(place.workspace, "slow")) == [f"models:/{place.name}@champion is version 1 now, before it version 2"]  # fmt: skip
    said = "\n".join(describe_models(place.workspace))
    assert "test accuracy 0.9000 (mean over seeds)  commit cccccccc, data dddddddd  @champion\n" in said
    place.register(wrong=range(40, 45), **{"sar.own_accuracy": "0.9111"})
    assert "test accuracy 0.9111 (mean over seeds 0.9000)" in "\n".join(describe_models(place.workspace))
    assert "@challenger" in said
    assert "promote  none -> 1  by" in said
    assert "rollback 2 -> 1  by" in said
    assert "slow" in said
    with pytest.raises(
        UserError, match=r"no champion before version 1.*\n  version 2 was rolled .*promote --version 2`"
    ):
        list(restore_champion(place.workspace, None))
    assert place.promote(version=2)[-1].endswith("is version 2 now, before it version 1")


def test_the_commands_promote_with_a_reason_list_and_roll_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.workspace.root / "dvc.yaml").touch()
    monkeypatch.chdir(place.workspace.root)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.exception
        return done.stdout

    place.register(wrong=range(40, 44))
    run("promote", "--dry-run")
    assert place.champion is None
    run("promote", "--reason", "first")
    place.register()
    run("promote")
    assert place.champion == 2
    assert "version 1 now" in run("rollback", "--reason", "too slow")
    assert "too slow" in run("models")


def test_a_champion_that_moves_while_the_challenger_is_judged_stops_the_promotion(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.register(wrong=range(40, 50))
    place.register(wrong=range(40, 45))
    place.promote()
    place.register()
    usual = promote.evaluate_gate

    def meanwhile(*arguments: Any) -> Any:
        move_champion(place.store, place.name, 1, expected=2, reason="by hand")
        return usual(*arguments)

    monkeypatch.setattr(promote, "evaluate_gate", meanwhile)
    with pytest.raises(UserError, match="is version 1 now and was version 2 when this began"):
        place.promote()
    assert place.champion == 1


def test_another_version_than_that_of_results_is_not_judged_unless_it_is_named(place: Place) -> None:
    """As after `dvc exp apply` of an experiment that is not the last one."""
    place.register(wrong=range(40, 44))
    place.show(1)
    place.register(**{"sar.dvc_experiment": "mild-gulf"})
    both = "challenger is version 2 \\(commit c{12}, experiment mild-gulf\\), not version 1 of .*, to which results/ belongs"
    with pytest.raises(UserError, match=both) as refused:
        place.promote()
    assert f"--version {1}" in str(refused.value)
    assert "dvc repro --single-item --force register" in str(refused.value)
    assert "challenger is version 2" in describe_registry(place.workspace)
    assert place.champion is None
    assert place.promote(version=1)[-1].endswith("is version 1 now, the first")
    assert place.promote(version=2)[-1].endswith("is version 2 now, before it version 1")
    with pytest.raises(UserError, match="no version 3"):
        place.promote(version=3)
    said = list(describe_models(place.workspace))
    assert [line.endswith("results/ belongs to it") for line in said[1:3]] == [True, False]
