"""Claims about the guide of locality guidance: trained once, on training images alone, and the same for all that ask."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.prepared_digits import write_digits

from pipeline.assembly import build_run, guide_spec, load_data, train_run
from pipeline.config import Params
from pipeline.data.prepared.prepared import Prepared
from pipeline.errors import UserError
from pipeline.inputs import guides as module
from pipeline.inputs.guides import describe_guide, guided_configs, train_guides
from pipeline.tune.space import SearchSpace, load_space
from pipeline.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")

METHOD = "regularizer.locality_guidance"
SMALL = {
    "base.device": "cpu",
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "train.epochs": 1,
    f"{METHOD}.weight": 0.5,
    f"{METHOD}.guide_depth": 8,
    f"{METHOD}.guide_epochs": 2,
}


def setting(**changes: Any) -> Params:
    return Params().with_values(SMALL | {key.replace("__", "."): value for key, value in changes.items()}, where="test")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    write_digits(tmp_path / "data", train_fraction=0.1)
    return Workspace(tmp_path, tmp_path)


def made(workspace: Workspace, *configs: Params, role: str = "train") -> module.Guides:
    return train_guides(workspace, configs, split=workspace.split, role=role)


def folders(workspace: Workspace) -> list[Path]:
    return sorted((workspace.state / "guides").iterdir())


def test_guide_is_trained_once_and_taken_by_whoever_needs_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(workspace, setting(), setting(train__lr=1e-4), setting(regularizer__locality_guidance__weight=0.0))
    ((spec, weights),) = first.weights.items()
    assert spec == guide_spec(setting(), load_data(workspace.prepared, workspace.split, "cpu"), "train")
    assert first.said[0].startswith("guide: ResNet-8 of 116 images, 2 epochs, train/accuracy 0.")
    assert first.seconds > 0
    assert first.gpu_seconds == 0
    assert "training the guide of locality guidance on 116 images" in capsys.readouterr().out
    monkeypatch.setattr(module, "fit", None)
    assert made(workspace, setting()) == first
    assert [folder.name for folder in folders(workspace)] == [spec.removeprefix("guide/")]
    assert Path(weights.path).parent == folders(workspace)[0]


def test_guide_of_the_same_seed_is_the_same_and_of_another_seed_or_role_another(workspace: Workspace) -> None:
    def tensors(params: Params, role: str = "train") -> dict[str, torch.Tensor]:
        ((_, weights),) = made(workspace, params, role=role).weights.items()
        found = load_file(weights.path)
        Path(weights.path).parent.joinpath("checkpoint.json").unlink()  # as if it had been cut off
        return found

    first, again = tensors(setting()), tensors(setting())
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for other in (tensors(setting(base__seed=1)), tensors(setting(), "train+val")):
        assert not all(torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize(("role", "roles"), [("train", ("train",)), ("train+val", ("train", "val"))])
def test_guide_sees_the_images_of_its_role_and_no_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, role: str, roles: tuple[str, ...]
) -> None:
    data = load_data(workspace.prepared, workspace.split, "cpu")
    seen = set(np.concatenate([getattr(data.split, each) for each in roles]).tolist())
    images = np.array(data.prepared.images)
    images[[row for row in range(len(images)) if row not in seen]] = 255 - images[0]
    other = Prepared(images, data.prepared.labels, None, data.prepared.manifest)
    changed = dataclasses.replace(data, prepared=other, _scales={})
    found = []
    for given in (data, changed):
        monkeypatch.setattr(module, "load_data", lambda *_, given=given: given)
        ((_, weights),) = made(workspace, setting(), role=role).weights.items()
        found.append(load_file(weights.path))
        Path(weights.path).parent.joinpath("checkpoint.json").unlink()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_run_trains_with_the_guide_of_its_role_and_its_sidecar_names_it(workspace: Workspace) -> None:
    params, data = setting(), load_data(workspace.prepared, workspace.split, "cpu")
    guides = made(workspace, params)
    run = build_run(params, data, seed=3, weights=guides.weights)
    ((spec, weights),) = guides.weights.items()
    assert run.sidecar["guide"] == {"spec": spec, "sha256": weights.sha256}
    (epoch,) = train_run(run, params, data, seed=3)
    assert np.isfinite(epoch.metrics["val/locality_guidance/value"])
    with pytest.raises(
        UserError, match=r"^regularizer\.locality_guidance: its guide: was not looked up when this command began"
    ):
        build_run(params, data, seed=3, scaled_by="train+val", weights=guides.weights)
    plain = build_run(setting(regularizer__locality_guidance__weight=0.0), data, seed=3)
    assert "guide" not in plain.sidecar
    fresh = build_run(params, data, seed=3, fresh_guide=True)
    assert "guide" not in fresh.sidecar
    for other in (plain, fresh):  # a guide changes nothing of what the network draws
        assert all(torch.equal(v, other.model.state_dict()[k]) for k, v in build_run(params, data, seed=3, weights=guides.weights).model.state_dict().items())  # fmt: skip
    Path(weights.path).write_bytes(b"another")
    with pytest.raises(UserError, match=r"its guide: .* has changed since its hash was recorded"):
        build_run(params, data, seed=3, weights=guides.weights)


def test_every_guide_that_a_search_can_ask_for_is_among_its_configurations_and_the_plan_says_so() -> None:
    weight = {f"{METHOD}.weight": {"type": "float", "low": 0.1, "high": 1.0}}
    off = Params()
    assert describe_guide(off, SearchSpace("space.yaml", {}, {"baseline": {}})) == {}
    said = describe_guide(off, SearchSpace("space.yaml", weight, {}))["guide"]
    assert said.startswith(
        "a ResNet-20, 30 epochs on the training images before the first trial, again on those of train"
    )
    flips = weight | {"train.flip": {"type": "categorical", "choices": [True, False]}}
    found = list(guided_configs(off, SearchSpace("space.yaml", flips, {"baseline": {}})))
    assert {config.train.flip for config in found} == {True, False}
    control = SearchSpace("space.yaml", {}, {"paper": {f"{METHOD}.weight": 2.5}})
    assert [config.regularizer.locality_guidance.weight for config in guided_configs(off, control)] == [2.5]


@pytest.mark.parametrize("name", ["guide_depth", "guide_epochs"])
def test_guide_itself_is_not_searched(tmp_path: Path, name: str) -> None:
    (tmp_path / "space.yaml").write_text(
        f"parameters: {{{METHOD}.{name}: {{type: categorical, choices: [8, 14]}}}}\ncontrols: {{baseline: {{}}}}\n"
    )
    with pytest.raises(UserError, match=rf"{name}.* cannot be searched: a search trains one guide, before its trials"):
        load_space(tmp_path / "space.yaml", Params(), shown_as="space.yaml")


def test_guide_that_diverges_is_told(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_: Any, **__: Any) -> Any:
        raise module.Diverged(1)
        yield

    monkeypatch.setattr(module, "fit", diverging)
    with pytest.raises(
        UserError, match=r"^params\.yaml: regularizer\.locality_guidance: training its guide failed: the training loss"
    ):
        made(workspace, setting())
    assert not (workspace.state / "guides").exists()
