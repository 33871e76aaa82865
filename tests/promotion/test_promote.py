"""Promotion and rollback on a real registry: what is compared, what is counted, what is refused and how."""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.artifacts.evaluation_run import evaluation_run, looks_logged
from pipeline.config import load_params
from pipeline.data.splits.split import Split, write_split
from pipeline.errors import GateRefused, UserError
from pipeline.promotion import predictions, promote
from pipeline.promotion.promote import describe_models, promote_challenger, restore_champion
from pipeline.promotion.registered_version import advice, describe_registry
from pipeline.state.looks import hash_networks, record_look
from pipeline.tracking.registry.champion import history, move_champion
from pipeline.tracking.registry.loading import fetch_predictions, load_registered
from pipeline.tracking.registry.versions import CHALLENGER, register_model, versions
from pipeline.tracking.single_run import log_run
from pipeline.tracking.store import Store, client, prepare_store, resolve_store
from pipeline.workspace import Workspace

SIDE = 20
IMAGES = SIDE * SIDE
LABELS = np.arange(IMAGES) % 2
CLASSES = ["even", "odd"]
SPLIT = Split(np.arange(0, 20), np.arange(20, 40), np.arange(40, IMAGES))
BUILD = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class ModelConfig:
    name: str

def build_model(config, *, num_classes, image_size, channels):
    pixels = image_size[0] * image_size[1] * channels
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, num_classes, bias=False))
"""
COMPARISON = {"difference": 0.0, "low": -0.005, "high": 0.005, "confidence": 0.95, "seeds": [5, 5], "images": 360, "detectable_difference": 0.008, "note": None}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = resolve_store("sqlite:///mlflow.db", tmp_path_factory.mktemp("store"))
    prepare_store(made)
    return made


class Place:
    """A checkout whose image i is black but for pixel i, by which a linear network answers it as a test wishes."""

    def __init__(self, root: Path, store: Store, name: str) -> None:
        self.workspace, self.store, self.name = Workspace(root, root), store, name
        self.set()
        self.workspace.prepared.mkdir(parents=True)
        images = np.zeros((IMAGES, IMAGES), np.uint8)
        np.fill_diagonal(images, 255)
        np.save(self.workspace.prepared / "images.npy", images.reshape(IMAGES, SIDE, SIDE, 1))
        np.save(self.workspace.prepared / "labels.npy", LABELS)
        self.describe("d" * 64)
        self.code = root / "networks"
        self.code.mkdir()
        (self.code / "__init__.py").write_text("")
        (self.code / "build.py").write_text(BUILD)

    def describe(self, data_hash: str) -> None:
        manifest = {"format": 1, "data_hash": data_hash, "classes": CLASSES, "sha256": {"images": "", "labels": ""}}
        (self.workspace.prepared / "manifest.json").write_text(json.dumps(manifest))
        write_split(SPLIT, self.workspace.split, data_hash=data_hash, seed=0)

    def set(self, *, metric: str = "accuracy", **promote: Any) -> None:
        params: dict[str, Any] = {"register": {"name": self.name}, "tracking": {"uri": self.store.uri}}
        params |= {"base": {"device": "cpu"}, "promote": promote, "evaluate": {"metric": metric}}
        self.workspace.params.write_text(json.dumps(params))

    def register(self, wrong: Iterable[int] = (), *, file: bool = True, **tags: str) -> int:
        """A version that is wrong on these images alone, evaluated and registered as the stages do it."""
        said = LABELS.copy()
        said[list(wrong)] = 1 - said[list(wrong)]
        weights = torch.full((2, IMAGES), -4.0)
        weights[said, torch.arange(IMAGES)] = 4.0
        folder = self.workspace.root / f"version-{len(list(self.workspace.root.iterdir()))}"
        folder.mkdir()
        save_file({"1.weight": weights}, folder / "weights.safetensors")
        sidecar = {"format": 1, "model": {"name": "linear"}, "num_classes": 2, "classes": CLASSES, "channels": 1}
        sidecar |= {"image_size": [SIDE, SIDE], "mean": [0.0], "std": [1.0], "id": folder.name}
        (folder / "checkpoint.json").write_text(json.dumps(sidecar))
        evaluated = folder / "evaluate"
        evaluated.mkdir()
        shares = weights[:, SPLIT.test].softmax(0).T.numpy()
        arrays: Any = {"best-seed1": shares}
        if file:
            np.savez(evaluated / "predictions.npz", ids=SPLIT.test, labels=LABELS[SPLIT.test], **arrays)
        run = log_run(self.store, experiment=self.name, key=folder.name, name="e", params={}, metrics={}, artifacts={"": evaluated})  # fmt: skip
        known = {"sar.data_hash": "d" * 64, "sar.split_hash": SPLIT.split_hash, "sar.evaluation_run": run}
        known |= {"sar.weights_hash": self.weights(folder)}
        known |= {"sar.retrain_folder": "best-seed1", "sar.input": f"{SIDE}x{SIDE}x1", "sar.test_accuracy": "0.9000"}
        known |= {"sar.comparison": json.dumps({"control": "baseline", **COMPARISON}), "sar.commit": "c" * 40}
        made = register_model(
            self.store, name=self.name, checkpoint=folder, code=self.code, model_card="# Card", tags=known | tags,
            run_id=None, input_example=np.zeros((1, SIDE, SIDE, 1), np.uint8),
        )  # fmt: skip
        return made.version

    @staticmethod
    def weights(folder: Path) -> str:
        return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()

    def evaluated(self, *versions: int) -> int:
        """The look of an evaluation of these versions' networks, as evaluate writes it down."""
        return record_look(self.workspace.state, "d" * 64, self.hashes(*versions), commit="c", by="evaluate")

    def hashes(self, *numbers: int) -> list[str]:
        tags = {each.version: each.tags for each in versions(self.store, self.name)}
        return [tags[number]["sar.weights_hash"] for number in numbers]

    def show(self, version: int, **changes: Any) -> None:
        """results/ is of a version, as register writes it."""
        tags = {each.version: each.tags for each in versions(self.store, self.name)}[version]
        content = {"name": self.name, "version": version, "model_hash": tags["sar.model_hash"]} | changes
        folder = self.workspace.results / "register"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "registered.json").write_text(json.dumps(content))

    def promote(self, **options: Any) -> list[str]:
        return list(promote_challenger(self.workspace, options.pop("reason", None), **options))

    def refused(self, **options: Any) -> str:
        with pytest.raises(GateRefused) as refusal:
            self.promote(**options)
        assert refusal.value.exit_code == 3
        return str(refusal.value)

    @property
    def champion(self) -> int | None:
        return history(self.store, self.name)[1]

    @property
    def looks(self) -> list[tuple[int, list[str]]]:
        """Number and networks of every look that was written down."""
        path = self.workspace.state / "looks.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line["look"], line["networks"]) for line in map(json.loads, lines)]


@pytest.fixture
def place(tmp_path: Path, store: Store, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, store, str(request.node.name).removeprefix("test_").replace("[", "-").replace("]", ""))


def test_a_first_champion_is_made_with_who_why_and_what_the_gate_found(place: Place) -> None:
    place.register(wrong=range(40, 50))
    lines = place.promote(reason="the first")
    assert lines[-1] == f"models:/{place.name}@champion is version 1 now, the first"
    (version,) = versions(place.store, place.name)
    gate = json.loads(version.tags["sar.promoted.gate"])
    assert gate["accuracy_value"] == round(350 / 360, 4)
    assert {gate[rule] for rule in ("accuracy", "champion", "control", "calibration", "latency")} == {"passed"}
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
    assert "is refused; version 1 stays champion" in said
    assert "champion failed: -11.1 points" in said
    assert place.champion == 1
    last = (place.workspace.state / "promotions.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["outcome"] == "failed"


def test_a_test_that_is_too_small_is_a_third_outcome(place: Place) -> None:
    place.register(wrong=range(40, 46))
    place.promote()
    place.register(wrong=range(46, 52))
    said = place.refused()
    assert "cannot be told from its bounds: not enough data; version 1 stays champion" in said
    assert "champion undecided: +0.0 points" in said
    assert "enough would be about 3,036 test images" in said
    place.set(margin=0.05)
    place.promote()
    assert place.champion == 2


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ({"min_accuracy": 0.99}, "accuracy failed: 97.2 %"),
        ({"control": "better"}, "control undecided: +0.0 points against baseline"),
        ({"max_ece": 0.001}, "calibration failed"),
        ({"max_latency_ms": 1e-6}, "latency failed"),
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
    assert lines[1] == "Look 3 at these test images: no error rate holds."
    assert place.looks[2:] == [(3, sorted(place.hashes(1, 2)))]
    lines = place.promote()
    assert lines[1].startswith("Look 3 ")
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
    assert "control undecided: +0.0 points" in place.refused()
    place.set()
    for lines in (place.promote(dry_run=True), place.promote()):
        said = "\n".join(lines)
        assert "\nLook 2 at these test images: no error rate holds.\n" in said
        assert "\nundecided, accepted control: +0.0 points against baseline (95 % interval -1.7 to +1.5 points" in said
        assert "A loss of up to 1.7 points is not ruled out, and is accepted since there is no champion" in said
        assert "to tell, enough would be (if both are equally good) about" in said
    assert place.champion == 1
    gate = json.loads(versions(place.store, place.name)[0].tags["sar.promoted.gate"])
    assert (gate["control"], gate["accuracy"]) == ("undecided, accepted", "passed")
    last = json.loads((place.workspace.state / "promotions.jsonl").read_text().splitlines()[-1])
    assert last["outcome"] == "undecided, accepted"
    (control,) = [each for each in last["rules"] if each["name"] == "control"]
    assert control["outcome"] == "undecided, accepted"
    place.register(wrong=range(40, 41), **{"sar.comparison": json.dumps(comparison)})
    assert "control undecided: +0.0 points" in place.refused()  # there is a champion now


def test_a_shown_loss_is_refused_of_a_first_model_too(place: Place) -> None:
    lost = COMPARISON | {"control": "baseline", "difference": -0.03, "low": -0.04, "high": -0.02, "margin": 0.01}
    place.register(**{"sar.comparison": json.dumps(lost)})
    assert "control failed: -3.0 points" in place.refused()
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
    assert "test accuracy 0.9000  commit cccccccc, data dddddddd  @champion\n" in said
    assert "@challenger" in said
    assert "promote  none -> 1  by" in said
    assert "rollback 2 -> 1  by" in said
    assert "slow" in said
    with pytest.raises(UserError, match="no champion before version 1"):
        list(restore_champion(place.workspace, None))


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
    both = "challenger is version 2 \\(commit c{12}, experiment mild-gulf\\), not version 1 of .*, which results/ is of"
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
    assert [line.endswith("results/ is of it") for line in said[1:3]] == [True, False]


def test_where_store_and_results_agree_nothing_is_to_mend(place: Place) -> None:
    assert advice(place.workspace) == ""
    place.register()
    place.show(1)
    assert advice(place.workspace) == ""
    assert describe_registry(place.workspace).endswith("@challenger, version 1: promote it with `sar-search promote`")
    assert place.promote()[-1].endswith("is version 1 now, the first")


def test_an_alias_that_another_has_moved_is_moved_back_only_in_ones_own_database(place: Place, tmp_path: Path) -> None:
    place.register()
    place.show(1)
    place.register(wrong=range(40, 41))
    assert advice(place.workspace) == ""  # the tests' store is another's
    own = Workspace(place.workspace.root, place.store.root)
    assert "challenger is version 2" in advice(own)


@pytest.mark.parametrize("lost", ["version", "content", "alias", "store", "empty store", "files", "weights", "byte"])
def test_what_the_store_has_lost_is_named_and_to_be_registered_again(place: Place, lost: str) -> None:
    place.register()
    place.show(1)
    registry = client(place.store)
    if lost == "version":
        registry.delete_registered_model(place.name)
        said = "has no version 1 of"
    elif lost == "content":  # a store that was begun anew has another first version
        place.show(1, model_hash="0" * 64)
        said = "has no version 1 of"
    elif lost == "alias":
        registry.delete_registered_model_alias(place.name, CHALLENGER)
        said = "no version of .* is called challenger"
    elif lost.endswith("store"):
        if lost == "empty store":  # as a process that was ended early leaves it
            (place.workspace.root / "elsewhere.db").touch()
        place.store = resolve_store("sqlite:///elsewhere.db", place.workspace.root)
        place.set()
        said = "elsewhere.db has no version 1 of"
    elif lost == "files":
        shutil.rmtree(_folder_of(place, 1))
        said = "the files of version 1 of .* are gone"
    else:
        _damage(place, 1, lost)
        said = "the files of version 1 of .* are damaged"
    assert re.search(said, advice(place.workspace))
    assert re.search(f"{said}.*`sar-search repro` registers it again", describe_registry(place.workspace))
    elsewhere = place.workspace.root / "elsewhere.db"
    assert not elsewhere.exists() or elsewhere.stat().st_size == 0  # asking makes none
    with pytest.raises(UserError, match=said):
        place.promote()


@pytest.mark.parametrize("content", ["", "[]", "{}", "\xff"])
def test_a_note_of_what_was_registered_that_says_nothing_is_to_be_written_again(place: Place, content: str) -> None:
    place.register()
    place.show(1)
    note = place.workspace.results / "register" / "registered.json"
    note.write_bytes(content.encode("latin-1"))
    assert advice(place.workspace) == f"{note} does not say which version was registered"
    assert describe_registry(place.workspace).startswith(
        f"{note} does not say which version was registered: `sar-search"
    )


def test_no_version_becomes_champion_whose_files_are_not_those_that_were_registered(place: Place) -> None:
    place.register(wrong=range(40, 44))
    place.register()
    assert place.promote(version=1)[-1].endswith("is version 1 now, the first")
    assert place.promote(version=2)[-1].endswith("is version 2 now, before it version 1")
    _damage(place, 1, "weights")
    with pytest.raises(UserError, match=r"version 1 of .* are damaged.*\n.*repro --single-item --force register"):
        list(restore_champion(place.workspace, None))
    with pytest.raises(UserError, match=r"version 1 of .* are damaged"):
        place.promote(version=1)
    assert place.champion == 2


@pytest.mark.parametrize("lost", ["files", "weights", "byte"])
def test_files_that_are_gone_come_back_to_the_version_that_they_are_of(place: Place, lost: str) -> None:
    place.register()
    folder = _folder_of(place, 1)
    before = {each.name for each in folder.iterdir()}
    checkpoint = next(each for each in place.workspace.root.iterdir() if each.name.startswith("version-"))
    if lost == "files":
        shutil.rmtree(folder)
    else:
        _damage(place, 1, lost)
    made = register_model(
        place.store, name=place.name, checkpoint=checkpoint, code=place.code, model_card="# Card", tags={},
        run_id=None, input_example=np.zeros((1, SIDE, SIDE, 1), np.uint8),
    )  # fmt: skip
    assert (made.version, made.new) == (1, False)
    assert {each.name for each in folder.iterdir()} == before
    answer = load_registered(place.store, place.name, 1).predict(np.zeros((1, SIDE, SIDE, 1), np.uint8))
    assert len(answer) == 1


LOOK = {"look": 4, "networks": "a" * 64}


@pytest.mark.parametrize(
    ("lost", "said"), [("run", LOOK), ("file", LOOK), ("nothing", LOOK), ("nothing", {"test_reads": 4})]
)
def test_an_evaluations_run_is_written_again_where_the_store_has_lost_it(
    place: Place, lost: str, said: dict[str, Any]
) -> None:
    folder = place.workspace.results / "evaluate"
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", ids=SPLIT.test)
    (folder / "metrics.json").write_text(json.dumps({"test": {"best": {"accuracy": 0.9}}}))
    evaluation = {"fingerprint": place.name, "arms": {}, "comparison": {}, "control": "baseline", "verdict": "none"}
    evaluation |= {"test_images": 360, "data_hash": "d" * 64, "mlflow_run": "0" * 32} | said
    place.workspace.params.write_text(json.dumps({"tracking": {"uri": place.store.uri, "experiment": place.name}}))
    params = load_params(place.workspace.params)

    def run() -> str:
        return evaluation_run(place.store, params, evaluation, place.workspace, {"sar.data_hash": "d" * 64})

    assert looks_logged(place.store, params, "d" * 64).count == 0
    first = evaluation["mlflow_run"] = run()
    logged = looks_logged(place.store, params, "d" * 64)
    assert (logged.count, logged.by_run) == (4, {first: 4})
    assert logged.by_networks == ({"a" * 64: 4} if "networks" in said else {})
    assert looks_logged(place.store, params, "e" * 64).count == 0
    if lost == "run":
        client(place.store).delete_run(first)
    elif lost == "file":
        next((place.store.root / "mlartifacts").rglob(f"{first}/artifacts/predictions.npz")).unlink()
    assert (run() == first) == (lost != "run")
    found = fetch_predictions(place.store, run())
    assert found is not None
    assert np.array_equal(found["ids"], SPLIT.test)


def test_looks_in_mlflow_are_counted_with_those_of_earlier_versions(place: Place) -> None:
    place.workspace.params.write_text(json.dumps({"tracking": {"uri": place.store.uri, "experiment": place.name}}))
    params = load_params(place.workspace.params)

    def log(key: str, **tags: str) -> str:
        known = {"sar.kind": "evaluation", "sar.data_hash": "d" * 64}
        tags = {name.replace("_", ".", 1): value for name, value in tags.items()}
        return log_run(place.store, experiment=place.name, key=key, name="e", params={}, metrics={}, tags=known | tags)

    for key in "abc":
        log(key)  # of versions that counted nothing
    assert looks_logged(place.store, params, "d" * 64).count == 3
    log("d", sar_test_reads="6")
    assert looks_logged(place.store, params, "d" * 64).count == 6
    one, again = (log(key, sar_look="7", sar_networks=hash_networks("xy")) for key in "ef")
    assert log("g", sar_look="8", sar_networks=hash_networks("xz"))
    logged = looks_logged(place.store, params, "d" * 64)
    assert logged.count == 8
    assert logged.by_networks == {hash_networks("xy"): 7, hash_networks("xz"): 8}
    assert (logged.by_run[one], logged.by_run[again]) == (7, 7)


def test_a_challenger_that_mlflow_knows_as_evaluated_is_no_look_where_the_state_is_gone(place: Place) -> None:
    place.workspace.params.write_text(json.dumps({"register": {"name": place.name}, "tracking": {"uri": place.store.uri, "experiment": place.name}, "base": {"device": "cpu"}}))  # fmt: skip
    place.register(file=False)
    run = versions(place.store, place.name)[0].tags["sar.evaluation_run"]
    for tag, value in (("sar.kind", "evaluation"), ("sar.data_hash", "d" * 64), ("sar.look", "3"), ("sar.networks", "n")):  # fmt: skip
        client(place.store).set_tag(run, tag, value)
    place.promote(dry_run=True)
    assert place.looks == [(3, place.hashes(1))]


def test_a_store_that_does_not_answer_keeps_results_from_nobody(place: Place) -> None:
    place.register()
    place.show(1)
    place.workspace.params.write_text(json.dumps({"tracking": {"uri": "http://127.0.0.1:9"}}))
    assert describe_registry(place.workspace).startswith("cannot be asked whether it still has what was registered")


def _damage(place: Place, version: int, how: str) -> None:
    """Cut a version's weights, or turn one of their bits."""
    weights = _folder_of(place, version) / "artifacts" / "checkpoint" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content[:100] if how == "weights" else content)


def _folder_of(place: Place, version: int) -> Path:
    address = client(place.store).get_model_version_download_uri(place.name, str(version))
    return Path(url2pathname(urlsplit(address).path))


@pytest.mark.parametrize("recorded", [True, False])
def test_by_another_metric_the_champions_probabilities_are_compared(place: Place, recorded: bool) -> None:
    """Its predictions as recorded, or made anew, of which what is kept is enough the next time."""
    place.register(wrong=range(40, 50), file=recorded)
    place.promote()
    place.set(metric="balanced_accuracy")
    place.register(wrong=range(40, 42))
    lines = "".join(place.promote(dry_run=True))
    assert "passed     balanced accuracy: 99.4 % on 360 test images; needed: higher than 50.0 %, which" in lines
    assert "+2.2 points in balanced accuracy against version 1 on the same 360 images (95 % interval" in lines
    assert "".join(place.promote(dry_run=True)).partition("champion:")[2] == lines.partition("champion:")[2]
    place.set(metric="log_loss")
    place.promote(dry_run=True)
    place.set(metric="auroc", min_metric=1.0)
    assert "AUROC failed: 0.99" in place.refused(dry_run=True)


def test_what_was_kept_of_right_alone_is_not_enough_for_another_metric(place: Place) -> None:
    place.register(wrong=range(40, 50), file=False)
    place.promote()
    place.register(wrong=range(40, 42))
    place.promote(dry_run=True)
    (kept,) = (place.workspace.state / "promote").glob("*.npz")
    with np.load(kept) as archive:
        shares = archive["probabilities"]
        of_earlier = {name: archive[name] for name in ("ids", "correct")}
    assert shares.shape == (360, 2)
    np.savez(kept, **of_earlier)
    place.set(metric="macro_f1")
    assert "in macro-F1 against version 1" in "".join(place.promote(dry_run=True))
    with np.load(kept) as archive:
        np.testing.assert_allclose(archive["probabilities"], shares, atol=1e-6)


def test_probabilities_are_by_name_and_of_the_classes_of_the_data() -> None:
    answers = [{"b": 0.2, "a": 0.3, "gone": 0.5}, {"gone": 1.0}, {"a": 1.0}]
    np.testing.assert_allclose(
        predictions._shares(answers, ["a", "b", "new"]), [[0.6, 0.4, 0], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0]], atol=1e-6
    )


def folded(place: Place, wrong: Iterable[int] = (), *, holdout: int = 0, ids: Any = None, **tags: str) -> int:
    """A version that has seen every image, its procedure tested in folds: wrong on these of the images `ids`.

    holdout: so many of the test images were kept apart, on which it is wrong on the first, beside those.
    """
    place.folds = getattr(place, "folds", 0) + 1
    ids = np.arange(IMAGES) if ids is None else np.asarray(ids)
    said = LABELS[ids] ^ np.isin(ids, list(wrong))
    arrays: Any = {"best-seed1": np.eye(2, dtype=np.float32)[said] * 0.98 + 0.01}
    arrays["best-seed2"] = 1 - arrays["best-seed1"]
    if holdout:
        kept = SPLIT.test[:holdout]
        shares = np.eye(2, dtype=np.float32)[LABELS[kept] ^ np.isin(kept, [kept[0], *wrong])]
        arrays |= {"holdout": shares * 0.98 + 0.01, "holdout_ids": kept, "holdout_labels": LABELS[kept]}
    folder = place.workspace.root / f"folds-{place.folds}"
    folder.mkdir()
    np.savez(folder / "predictions.npz", ids=ids, labels=LABELS[ids], folds=ids % 5, **arrays)
    run = log_run(place.store, experiment=place.name, key=folder.name, name="e", params={}, metrics={}, artifacts={"": folder})  # fmt: skip
    procedure = json.dumps({"folds": 5, "images": len(ids), "folds_hash": "h", "holdout": holdout})
    known = {"sar.procedure": procedure, "sar.evaluation_run": run, "sar.split_hash": f"{place.folds}" * 64}
    return place.register([place.folds], **known | tags)


def test_version_that_has_seen_every_image_is_judged_out_of_fold_and_says_so(place: Place) -> None:
    folded(place, wrong=range(40, 60))
    lines = place.promote()
    assert "passed     accuracy: 95.0 % on 400 images out of fold, by the networks of 5 folds that its procedure made (it has seen them all)" in "\n".join(lines)  # fmt: skip
    assert json.loads(versions(place.store, place.name)[0].tags["sar.promoted.gate"])["accuracy_value"] == 0.95
    assert "test accuracy 0.9000 of its procedure, in folds" in "\n".join(describe_models(place.workspace))


def test_two_procedures_are_compared_out_of_fold_image_by_image(place: Place) -> None:
    folded(place, wrong=range(40, 60))
    place.promote()
    folded(place, wrong=range(40, 44))
    lines = place.promote()
    assert lines[0].endswith("against version 1, by its predictions out of fold, of 5 folds")
    assert "+4.0 points against version 1 on the same 400 images" in "\n".join(lines)
    assert (place.champion, place.looks) == (2, [(1, sorted(place.hashes(1, 2)))])


def test_champion_that_was_tested_itself_is_compared_with_a_procedure_on_its_test_images(place: Place) -> None:
    place.register(wrong=range(40, 50))
    place.promote()
    folded(place, wrong=[*range(0, 20), 40, 41])
    lines = place.promote()
    assert lines[0].endswith("against version 1, as recorded when it was evaluated")
    assert "+2.2 points against version 1 on the same 360 images" in "\n".join(lines)
    assert "94.5 % on 400 images out of fold" in "\n".join(lines)
    assert place.champion == 2


def test_champion_with_a_procedure_is_compared_on_the_challengers_test_images(place: Place) -> None:
    folded(place, wrong=[*range(0, 20), *range(40, 50)])
    place.promote()
    place.register(wrong=[40, 41])
    lines = place.promote()
    assert lines[0].endswith("against version 1, by its predictions out of fold, of 5 folds")
    assert "+2.2 points against version 1 on the same 360 images" in "\n".join(lines)


@pytest.mark.parametrize("tags", [{"sar.data_hash": "e" * 64}, {"sar.retrain_folder": "best-seed9"}], ids=["other data", "lost"])  # fmt: skip
def test_champion_without_honest_predictions_is_not_compared_with_a_procedure(place: Place, tags: Any) -> None:
    place.register(wrong=range(40, 50), **tags)
    move_champion(place.store, place.name, 1, expected=None, reason=None)
    folded(place)
    said = place.refused()
    assert "cannot be told from its bounds: not enough data; version 1 stays champion" in said
    assert "champion undecided: version 2 is judged out of fold, and of these images version 1 has no predictions by networks that had not seen them" in said  # fmt: skip
    assert "enough would be a champion whose procedure was tested in folds too, or evaluate.holdout" in said
    assert place.looks == []


def test_predictions_out_of_fold_that_are_gone_are_not_made_anew(place: Place) -> None:
    folded(place, **{"sar.retrain_folder": "best-seed9"})
    with pytest.raises(UserError, match=r"out of fold that version 1 is judged by are gone, and it cannot be run in their place.*\n  run `dvc repro --single-item --force evaluate register`"):  # fmt: skip
        place.promote()


def test_images_kept_apart_are_what_a_version_and_its_champion_are_judged_on(place: Place) -> None:
    place.set(control="any", max_ece=None)
    folded(place, wrong=range(0, 40), holdout=360, **{"sar.split_hash": SPLIT.split_hash})
    lines = place.promote()
    assert "99.7 % on 360 images kept apart from its folds (evaluate.holdout)" in "\n".join(lines)
    place.register(wrong=range(40, 42))
    place.set(control="any", max_ece=None, margin=0.05)
    lines = place.promote()
    assert lines[0].endswith("against version 1, as recorded when it was evaluated")
    assert "-0.3 points against version 1 on the same 360 images" in "\n".join(lines)


def test_tag_on_the_procedure_that_cannot_be_read_is_named(place: Place) -> None:
    folded(place, **{"sar.procedure": "{"})
    with pytest.raises(UserError, match=r"version 1 has a tag sar\.procedure that cannot be read"):
        predictions.is_judged_out_of_fold(versions(place.store, place.name)[0])
