"""Claims about pretrained weights around a search: what names them, what is kept of them, and that they stay the same."""

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.search_state import make_workspace, open_search, set_params
from support.small_networks import SMALL, pictures
from torch import nn

import pipeline.models
from pipeline.assembly import TrainingData, build_run, load_trained, regularizers_from_params
from pipeline.config import Params, load_params
from pipeline.data.prepared.prepared import Prepared
from pipeline.data.splits.split import Split
from pipeline.errors import UserError
from pipeline.inputs import resolved_weights as module
from pipeline.inputs.resolved_weights import resolve_weights
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig, RecordedWeights, Weights
from pipeline.provenance.code_hash import code_hashes
from pipeline.provenance.fingerprint import fingerprint_content
from pipeline.provenance.weights_record import (
    as_recorded,
    describe_weights,
    from_record,
    hash_choices,
    to_json,
    write_note,
)
from pipeline.regularizers.plugin import plugin_hashes
from pipeline.stages.retrain.retrain_runs import retrain_jobs
from pipeline.state.current_search import current_search
from pipeline.train.checkpoint import write_checkpoint
from pipeline.tune.journal.compatibility import changed_code, changed_content
from pipeline.tune.journal.records import SearchHistory
from pipeline.tune.ray.runner import _weights_by_original_spec
from pipeline.workspace import Workspace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own type hints, once, and here warnings are errors
    import mlflow.pyfunc  # noqa: F401

from pipeline.tracking.registry.champion import history, move_champion
from pipeline.tracking.registry.versions import CHALLENGER, register_model, versions
from pipeline.tracking.store import Store, prepare_store, resolve_store

CONFIG = ModelConfig("vit_tiny_patch16_224", SMALL, "xavier", 0.0)
GUIDED = "regularizer.guided_transfer"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "checkout"
    root.mkdir()
    return make_workspace(root)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = resolve_store("sqlite:///mlflow.db", tmp_path_factory.mktemp("registry"))
    prepare_store(made)
    return made


def promote(store: Store, name: str) -> None:
    """Make the challenger champion."""
    challenger = next(each.version for each in versions(store, name) if CHALLENGER in each.aliases)
    move_champion(store, name, challenger, expected=history(store, name)[1], reason=None)


def network(seed: int = 0, *, classes: int = 3, side: int = 12, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig(CONFIG.name, SMALL | kwargs, "xavier", 0.0)
    return build_model(config, num_classes=classes, image_size=(side, side), channels=1).eval()


def write_file(path: Path, seed: int = 0, **settings: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network(seed, **settings).state_dict(), path)
    return path


def write_folder(folder: Path, seed: int = 0, *, kwargs: dict[str, Any] | None = None) -> Path:
    model = network(seed, **(kwargs or {}))
    folder.mkdir(parents=True)
    sidecar = {
        "model": asdict(ModelConfig(CONFIG.name, SMALL | (kwargs or {}), "xavier", 0.0)),
        "num_classes": 3,
        "image_size": [12, 12],
        "channels": 1,
        "classes": ["a", "b", "c"],
        "mean": [0.5],
        "std": [0.25],
    }
    write_checkpoint(folder, model, sidecar)
    return folder


def setting(pretrained: str | None = None, **values: Any) -> Params:
    changes = {"model.kwargs": SMALL, "model.pretrained": pretrained, "base.device": "cpu"}
    return Params().with_values(changes | {key.replace("__", "."): value for key, value in values.items()}, where="")


def resolved(workspace: Workspace, params: Params) -> dict[str, Weights]:
    return resolve_weights(workspace, [("params.yaml", params)])


def content(params: Params, weights: dict[str, Weights], space: dict[str, Any] | None = None) -> dict[str, Any]:
    given = space or {"parameters": {}, "controls": {}}
    return json.loads(json.dumps(fingerprint_content(params, given, data_hash="d", split_hash="s", weights=weights)))  # type: ignore[no-any-return]


def data(classes: int = 3) -> TrainingData:
    images = np.random.default_rng(0).integers(0, 256, (12, 12, 12, 1), dtype=np.uint8)
    manifest = {"classes": [str(each) for each in range(classes)], "data_hash": "d"}
    prepared = Prepared(images, np.arange(12) % classes, None, manifest)
    return TrainingData(prepared, Split(np.arange(8), np.arange(8, 10), np.arange(10, 12)), torch.device("cpu"))


# What a specification means.


@pytest.mark.parametrize("anchored", [False, True])
def test_file_means_itself_wherever_the_checkout_keeps_it(tmp_path: Path, anchored: bool) -> None:
    workspace = Workspace(tmp_path / "copy", tmp_path)
    file = write_file((workspace.anchor if anchored else workspace.root) / "weights" / "mine.safetensors")
    (found,) = resolved(workspace, setting("weights/mine.safetensors")).values()
    assert (found.path, found.resolved, found.network) == (str(file), "", None)
    assert resolved(workspace, setting(str(file)))[str(file)].sha256 == found.sha256


def test_checkpoints_folder_says_what_network_it_is_of(workspace: Workspace) -> None:
    write_folder(workspace.root / "weights" / "best")
    (found,) = resolved(workspace, setting("weights/best")).values()
    assert found.network is not None
    assert found.network["model"]["kwargs"] == SMALL
    assert found.network["image_size"] == [12, 12]
    (workspace.root / "weights" / "best" / "checkpoint.json").unlink()
    with pytest.raises(UserError, match=r"^params.yaml: model.pretrained: weights/best: is no checkpoint's folder"):
        resolved(workspace, setting("weights/best"))


@pytest.mark.parametrize("folder", ["models/best-seed1", "state/retrain/f00d", "results/x", "data/x"])
def test_weights_that_the_pipeline_would_clean_away_are_refused(workspace: Workspace, folder: str) -> None:
    write_folder(workspace.root / folder)
    for spec in (folder, f"{folder}/weights.safetensors"):
        with pytest.raises(UserError, match=rf"{spec}: lies in {folder.partition('/')[0]}/, .* copy it elsewhere"):
            resolved(workspace, setting(spec))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("weights/none.pth", "there is no such file or folder in"),
        ("none.safetensors", "there is no such file or folder in"),
        ("vit_tiny_patch16_225", "nor a model of timm; did you mean .*vit_tiny_patch16_224"),
        ("models:/sar", "needed: models:/name@alias or models:/name/version"),
        ("models:sar@champion", "needed: models:/name@alias or models:/name/version"),
        ("models:/none@champion", "has no such model"),
        ("models:/none/3", "has no such model"),
        ("x" * 1000, "nor a model of timm"),
    ],
)
def test_what_means_nothing_is_refused_with_who_asks_for_it(workspace: Workspace, store: Store, spec: str, said: str) -> None:  # fmt: skip
    with pytest.raises(UserError, match=f"^params.yaml: model.pretrained: .*{said}"):
        resolved(workspace, setting(spec, tracking__uri=store.uri))


def test_source_counts_where_guided_transfer_is_on(workspace: Workspace) -> None:
    off = setting(regularizer__guided_transfer__source="none.pth")
    assert resolved(workspace, off) == {}
    for values in ({f"{GUIDED}.weight": 0.1}, {f"{GUIDED}.watch": True}):
        with pytest.raises(UserError, match=rf"^params.yaml: {GUIDED}.source: none.pth: there is no such file"):
            resolved(workspace, off.with_values(values, where=""))


def test_name_of_timm_is_fetched_once_and_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = dict(network().state_dict())
    monkeypatch.setattr(module, "fetch_timm", lambda name: {"vit_mine.tag": tensors}[name])
    (found,) = resolved(workspace, setting("vit_mine.tag")).values()
    assert Path(found.path).parent == workspace.state / "pretrained" / found.sha256[:16]
    assert found.network == {"timm": "vit_mine.tag"}
    assert found.resolved.startswith("timm ")
    monkeypatch.setattr(module, "fetch_timm", None)
    assert resolved(workspace, setting("vit_mine.tag")) == {"vit_mine.tag": found}
    assert not list((workspace.state / "pretrained").glob(".partial*"))


def registered(store: Store, folder: Path, name: str, seed: int) -> int:
    return register_model(
        store,
        name=name,
        checkpoint=write_folder(folder / f"checkpoint-{seed}", seed),
        code=Path(pipeline.models.__file__).parent,
        model_card="",
        tags={},
        run_id=None,
        input_example=np.zeros((2, 12, 12, 1), np.uint8),
    ).version


def test_alias_means_the_version_that_it_has_when_it_is_resolved(
    workspace: Workspace, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = registered(store, tmp_path, "sar", 0)
    promote(store, "sar")
    params = setting("models:/sar@champion", tracking__uri=store.uri)
    before = resolved(workspace, params)
    (found,) = before.values()
    assert found.resolved == f"version {first}"
    assert Path(found.path).read_bytes() == (tmp_path / "checkpoint-0" / "weights.safetensors").read_bytes()
    assert found.network is not None
    assert ModelConfig(**found.network["model"]) == CONFIG
    assert sorted(path.name for path in Path(found.path).parent.iterdir()) == ["kept.json", "weights.safetensors"]
    monkeypatch.setattr(module, "fetch_checkpoint", None)
    assert resolved(workspace, params) == before, "what is kept was fetched again"
    monkeypatch.undo()
    second = registered(store, tmp_path, "sar", 1)
    assert resolved(workspace, params) == before
    promote(store, "sar")
    (now,) = resolved(workspace, params).values()
    assert (now.resolved, now.sha256 == found.sha256) == (f"version {second}", False)
    exact = setting(f"models:/sar/{first}", tracking__uri=store.uri)
    assert next(iter(resolved(workspace, exact).values())).sha256 == found.sha256
    assert load_trained(tmp_path / "checkpoint-0", torch.device("cpu"))


# What decides a search.


def test_search_is_known_by_the_weights_and_not_by_their_place(workspace: Workspace) -> None:
    for name, seed in (("a.safetensors", 0), ("b.safetensors", 0), ("c.safetensors", 1)):
        write_file(workspace.root / name, seed)
    at_a, at_b, at_c = (
        content(setting(name), resolved(workspace, setting(name)))
        for name in ("a.safetensors", "b.safetensors", "c.safetensors")
    )
    assert at_a == at_b
    (changed,) = changed_content(at_a, at_c)
    assert changed.startswith(f"model.pretrained {at_a['model']['pretrained'][:12]}... -> ")
    assert at_a["model"]["pretrained"] == resolved(workspace, setting("a.safetensors"))["a.safetensors"].sha256


def test_source_is_known_by_its_network_too(workspace: Workspace) -> None:
    write_folder(workspace.root / "two")
    write_folder(workspace.root / "moved")
    shutil.copytree(workspace.root / "two", workspace.root / "four")
    sidecar = workspace.root / "four" / "checkpoint.json"
    sidecar.write_text(sidecar.read_text().replace('"num_heads": 2', '"num_heads": 4'))
    found = {}
    for name in ("two", "moved", "four"):
        params = setting(name, regularizer__guided_transfer__source=name, regularizer__guided_transfer__weight=0.1)
        found[name] = content(params, resolved(workspace, params))
    assert found["two"] == found["moved"]
    assert [each.split()[0] for each in changed_content(found["two"], found["four"])] == [f"{GUIDED}.source"]


def test_weights_below_the_home_folder_are_known_by_their_hash_among_choices_too(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = workspace.root / "home"
    monkeypatch.setenv("HOME", str(home))
    write_file(home / "a.safetensors")
    given = setting("~/a.safetensors")
    weights = resolved(workspace, given)
    assert [each.path for each in weights.values()] == [str(home / "a.safetensors")]
    space = {"parameters": {}, "controls": {"plain": {"model.pretrained": "~/a.safetensors"}}}
    found = content(given, weights, space)
    assert found["space"]["controls"]["plain"]["model.pretrained"] == found["model"]["pretrained"]


def test_weights_of_controls_and_choices_are_in_the_fingerprint(workspace: Workspace) -> None:
    choices = ["a.safetensors", "b.safetensors"]
    space = {
        "parameters": {"model.pretrained": {"type": "categorical", "choices": choices}},
        "controls": {"plain": {"model.pretrained": "c.safetensors", "train.lr": 0.1}},
    }
    before = []
    for seed in (0, 1):
        for number, name in enumerate(("a.safetensors", "b.safetensors", "c.safetensors")):
            write_file(workspace.root / name, seed * 3 + number)
        settings = [("space.yaml", setting(name)) for name in (*choices, "c.safetensors")]
        before.append(content(setting(), resolve_weights(workspace, settings), space))
    said = [each.split()[0] for each in changed_content(*before)]
    assert said == ["space.parameters.model.pretrained.weights", "space.controls.plain.model.pretrained"]
    assert before[0]["space"]["parameters"]["model.pretrained"]["choices"] == choices
    assert hash_choices(space, {}) == space


def test_plugins_source_counts_where_the_plugin_loads_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    code = "from pipeline.regularizers import RequiredFeatures, Regularizer\nclass Mine(Regularizer):\n    def __init__(self, *, weight: float, source: str{more}) -> None:\n        super().__init__(weight, RequiredFeatures())\n    def forward(self, features): ...\n"
    (workspace.root / "loading_mine.py").write_text(code.format(more=", load_source"))
    (workspace.root / "other_mine.py").write_text(code.format(more=""))
    write_file(workspace.root / "a.safetensors")
    options = {"regularizer.plugin_weight": 0.1, "regularizer.plugin_options": {"source": "a.safetensors"}}
    loading = setting(**options, regularizer__plugin="loading_mine:Mine")
    assert list(weights := resolved(workspace, loading)) == ["a.safetensors"]
    assert content(loading, weights)["regularizer"]["plugin_options"] == {"source": weights["a.safetensors"].sha256}
    assert from_record(workspace, recorded_of(weights), [loading]).keys() == weights.keys()
    assert resolved(workspace, setting(**options, regularizer__plugin="other_mine:Mine")) == {}


def test_changed_plugin_is_changed_code(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    (workspace.root / "hashed_mine.py").write_text("one")
    before = code_hashes(plugin_hashes(["hashed_mine:Mine"]))
    (workspace.root / "hashed_mine.py").write_text("two")
    after = code_hashes(plugin_hashes(["hashed_mine:Mine"]))
    assert changed_code(SearchHistory(header={"code": before}), {"code": after}) == ["plugin hashed_mine"]
    assert "plugin hashed_mine" not in code_hashes()


def test_present_search_is_that_of_the_weights_that_were_resolved_last(workspace: Workspace) -> None:
    write_file(workspace.root / "a.safetensors")
    set_params(workspace, {"model": {"kwargs": SMALL, "pretrained": "a.safetensors"}})
    params = load_params(workspace.params)
    weights = resolved(workspace, params)
    assert current_search(workspace, params) != current_search(workspace, params, weights)
    write_note(workspace, weights)
    known, told = current_search(workspace, params), current_search(workspace, params, weights)
    assert known is not None
    assert told is not None
    assert known.folder == told.folder
    assert known.content["model"]["pretrained"] == weights["a.safetensors"].sha256
    with open_search(workspace, known.content):
        assert known.folder.exists()


def test_trials_begun_with_the_old_place_of_a_file_get_it_from_the_new_one() -> None:
    now = {"new.pth": Weights("new.pth", "/there/new.pth", "f00d")}
    begun = {"old.pth": {"sha256": "f00d"}, "gone.pth": {"sha256": "beef"}}
    assert _weights_by_original_spec(SearchHistory(header={"weights": begun}), now) == {"old.pth": now["new.pth"]}
    assert _weights_by_original_spec(SearchHistory(header={}), now) == {}


# What training begins from.


def test_run_begins_from_the_weights_and_its_checkpoint_does_without_them(workspace: Workspace, tmp_path: Path) -> None:
    source, params = network(5), setting("mine.safetensors")
    write_file(workspace.root / "mine.safetensors", 5)
    weights = resolved(workspace, params)
    run = build_run(params, data(), seed=1, weights=weights)
    with torch.no_grad():
        assert torch.equal(run.model.eval()(pictures()), source(pictures()))
    began = weights["mine.safetensors"]
    assert run.sidecar["pretrained"] == {"spec": "mine.safetensors", "resolved": "", "sha256": began.sha256}
    assert "pretrained" not in build_run(setting(), data(), seed=1).sidecar
    (tmp_path / "trained").mkdir()
    write_checkpoint(tmp_path / "trained", run.model, run.sidecar)
    (workspace.root / "mine.safetensors").unlink()
    trained, _ = load_trained(tmp_path / "trained", torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(trained(pictures()), source(pictures()))


def test_what_stays_fresh_is_what_it_would_be_without_weights(workspace: Workspace) -> None:
    write_file(workspace.root / "mine.safetensors", 5, classes=7)
    params = setting("mine.safetensors")
    run = build_run(params, data(), seed=1, weights=resolved(workspace, params))
    drawn = torch.rand(3)
    fresh: Any = build_run(setting(), data(), seed=1).model
    model: Any = run.model
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert not torch.equal(model.norm.weight + model.blocks[0].mlp.fc1.weight.sum(), fresh.norm.weight + fresh.blocks[0].mlp.fc1.weight.sum())  # fmt: skip
    assert torch.equal(torch.rand(3), drawn)


def test_file_that_has_changed_since_it_was_resolved_is_refused(workspace: Workspace) -> None:
    params, file = setting("mine.safetensors"), workspace.root / "mine.safetensors"
    write_file(file)
    weights = resolved(workspace, params)
    build_run(params, data(), seed=0, weights=weights)
    write_file(file, 1)
    with pytest.raises(
        UserError, match=r"^model.pretrained: mine.safetensors: .* has changed since its hash was recorded"
    ):
        build_run(params, data(), seed=0, weights=weights)
    file.unlink()
    with pytest.raises(UserError, match=r"^model.pretrained: mine.safetensors: .* is gone"):
        build_run(params, data(), seed=0, weights=weights)
    with pytest.raises(UserError, match=r"^model.pretrained: mine.safetensors: was not looked up"):
        build_run(params, data(), seed=0)


def test_source_of_guided_transfer_is_what_was_resolved(workspace: Workspace) -> None:
    write_folder(workspace.root / "source", 5)
    params = setting(regularizer__guided_transfer__source="source", regularizer__guided_transfer__weight=0.1)
    method: Any = regularizers_from_params(params, resolved(workspace, params))["guided_transfer"]
    method.prepare(network(1), inputs_shape=(1, 12, 12))
    frozen: nn.Module = method._frozen[0].network
    assert torch.equal(frozen.get_parameter("blocks.0.attn.qkv.weight"), network(5).blocks[0].attn.qkv.weight)
    with pytest.raises(ValueError, match="source: source: was not looked up"):
        regularizers_from_params(params)["guided_transfer"].prepare(network(1), inputs_shape=(1, 12, 12))


# What retraining begins from.


def recorded_of(weights: Mapping[str, Weights]) -> dict[str, RecordedWeights]:
    """As a journal or best.yaml has them, read back."""
    return {spec: RecordedWeights(**each) for spec, each in json.loads(json.dumps(to_json(weights))).items()}


@pytest.fixture
def searched(workspace: Workspace) -> tuple[Workspace, Params, dict[str, RecordedWeights]]:
    write_file(workspace.root / "mine.safetensors")
    params = setting("mine.safetensors")
    return workspace, params, recorded_of(resolved(workspace, params))


def test_retraining_finds_the_weights_of_the_search_again(searched: Any) -> None:
    workspace, params, recorded = searched
    assert from_record(workspace, recorded, [params]) == resolved(workspace, params)
    assert from_record(workspace, recorded, [setting()]) == {}
    assert str(workspace.root) not in repr(recorded)


def test_retraining_from_weights_that_have_changed_or_gone_is_refused(searched: Any) -> None:
    workspace, params, recorded = searched
    write_file(workspace.root / "mine.safetensors", 1)
    with pytest.raises(
        UserError, match=r"^mine.safetensors: has changed since the search .*dvc repro --single-item --force search"
    ):
        from_record(workspace, recorded, [params])
    (workspace.root / "mine.safetensors").unlink()
    with pytest.raises(UserError, match=r"^mine.safetensors: its weights .* no longer exist"):
        from_record(workspace, recorded, [params])
    with pytest.raises(UserError, match=r"the search had no such weights. Run `dvc repro search`"):
        from_record(workspace, {}, [params])


def test_retraining_takes_what_an_alias_meant_and_asks_nobody(
    workspace: Workspace, store: Store, tmp_path: Path
) -> None:
    registered(store, tmp_path, "asked", 2)
    promote(store, "asked")
    params = setting("models:/asked@champion", tracking__uri=store.uri)
    weights = resolved(workspace, params)
    registered(store, tmp_path, "asked", 3)
    promote(store, "asked")
    assert from_record(workspace, recorded_of(weights), [params]) == weights


def test_retrained_runs_of_other_weights_are_others(searched: Any) -> None:
    workspace, params, recorded = searched
    weights = from_record(workspace, recorded, [params])
    other = {spec: Weights(spec, each.path, "0" * 64) for spec, each in weights.items()}
    folders = set()
    for known in (weights, weights, other):
        (job, *_) = retrain_jobs(params, {"best": {}}, seeds=1, prepared=Path(), split=Path(), hashes=[], state=workspace.state, weights=known)  # fmt: skip
        assert job.weights == known
        folders.add(job.folder)
    assert len(folders) == 2


def test_record_stands_in_for_what_is_resolved_now() -> None:
    now = {"a": Weights("a", "/a", "new"), "b": Weights("b", "/b", "same")}
    then = as_recorded(now, {"a": RecordedWeights("old", "", None)})
    assert {spec: each.sha256 for spec, each in then.items()} == {"a": "old", "b": "same"}


def test_weights_are_told_in_a_line_each_that_of_the_network_first() -> None:
    weights = {
        "mine.pth": Weights("mine.pth", "/there", "beef" * 16),
        "models:/sar@champion": Weights("models:/sar@champion", "/there", "f00d" * 16, "version 3"),
    }
    assert describe_weights(
        weights, "models:/sar@champion", ["classifier not pretrained (10 classes, the weights had 3)"]
    ) == [
        "models:/sar@champion -> version 3, sha256 f00df00d; classifier not pretrained (10 classes, the weights had 3)",
        "mine.pth, sha256 beefbeef",
    ]


def test_nothing_is_noted_in_a_checkout_that_never_had_weights(tmp_path: Path) -> None:
    write_note(Workspace(tmp_path, tmp_path), {})
    assert list(tmp_path.iterdir()) == []
