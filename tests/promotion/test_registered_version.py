"""Whether the registry still has what was registered, and what is said where it has not."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from support.partial_results import filled
from support.registered_versions import SIDE, SPLIT, Place

from pipeline.artifacts.evaluation import Evaluation
from pipeline.config import load_params
from pipeline.errors import UserError
from pipeline.promotion.promote import restore_champion
from pipeline.promotion.registered_version import advice, describe_registry
from pipeline.state.looks import hash_networks
from pipeline.tracking.evaluation_run import evaluation_run, looks_logged
from pipeline.tracking.registry.loading import fetch_predictions, load_registered
from pipeline.tracking.registry.versions import CHALLENGER, register_model, versions
from pipeline.tracking.single_run import log_run
from pipeline.tracking.store import client, resolve_store
from pipeline.workspace import Workspace


def test_where_store_and_results_agree_nothing_is_to_mend(place: Place) -> None:
    assert advice(place.workspace) == ""
    place.register()
    place.show(1)
    assert advice(place.workspace) == ""
    assert describe_registry(place.workspace).endswith("@challenger, version 1: promote it with `sar-search promote`")
    assert place.promote()[-1].endswith("is version 1 now, the first")
    assert describe_registry(place.workspace).endswith("@champion, version 1: promoted, `sar-search predict` uses it")


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
        said = "no version of .* has the alias challenger"
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
    evaluation = {"fingerprint": place.name, "control": "baseline", "verdict": "none"}
    evaluation |= {"test_images": 360, "data_hash": "d" * 64, "mlflow_run": "0" * 32} | said
    place.workspace.params.write_text(json.dumps({"tracking": {"uri": place.store.uri, "experiment": place.name}}))
    params = load_params(place.workspace.params)

    def run() -> str:
        return evaluation_run(
            place.store, params, filled(Evaluation, **evaluation), place.workspace, {"sar.data_hash": "d" * 64}
        )

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
