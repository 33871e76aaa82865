"""Claims about checkpoints: whole or not at all, of one network, and without code in them."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from pipeline.errors import UserError
from pipeline.train.checkpoint import load_state, load_weights, save_checkpoint, write_checkpoint
from pipeline.train.sidecar import read_sidecar


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoint_gives_back_weights_state_and_sidecar(tmp_path: Path) -> None:
    model, folder = network(), tmp_path / "models" / "best-seed0"
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    save_checkpoint(folder, model, {"seed": 3}, state={"epoch": 7, "optimizer": optimizer.state_dict()})
    other = network(seed=1)
    assert not same(model, other)
    load_weights(folder, other)
    assert same(model, other)
    assert read_sidecar(folder) == {"format": 1, "seed": 3}
    state = load_state(folder)
    assert state["epoch"] == 7
    fresh = torch.optim.AdamW(other.parameters())
    fresh.load_state_dict(state["optimizer"])
    for before, after in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(optimizer.state[before]["exp_avg_sq"], fresh.state[after]["exp_avg_sq"])


def test_weights_are_readable_without_torch(tmp_path: Path) -> None:
    model = network()
    save_checkpoint(tmp_path / "model", model, {})
    found = load_file(tmp_path / "model" / "weights.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert (found["0.weight"] == model[0].weight.detach().numpy()).all()


def test_checkpoint_without_state_has_no_file_for_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", network(), {})
    assert files(tmp_path / "model") == ["checkpoint.json", "weights.safetensors"]
    with pytest.raises(UserError, match="the training state cannot be loaded: FileNotFoundError"):
        load_state(tmp_path / "model")


def test_checkpoint_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", network(0), {"seed": 0}, state={"epoch": 1})
    save_checkpoint(tmp_path / "model", network(1), {"seed": 1})
    assert files(tmp_path) == ["model"]
    assert files(tmp_path / "model") == ["checkpoint.json", "weights.safetensors"]
    assert read_sidecar(tmp_path / "model")["seed"] == 1


def test_checkpoint_that_fails_leaves_the_one_before_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", network(0), {"seed": 0}, state={"epoch": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path / "model", network(1), {"seed": object()})
    other = network(1)
    load_weights(tmp_path / "model", other)
    assert same(other, network(0))
    assert read_sidecar(tmp_path / "model")["seed"] == 0
    assert load_state(tmp_path / "model") == {"epoch": 1}


def test_checkpoint_that_fails_at_first_leaves_nothing_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path / "model", network(), {"seed": object()})
    assert not (tmp_path / "model").exists()
    save_checkpoint(tmp_path / "model", network(), {"seed": 1})
    assert files(tmp_path) == ["model"]


def test_folder_without_a_sidecar_is_no_complete_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, network(), {})
    (tmp_path / "checkpoint.json").unlink()
    with pytest.raises(UserError, match="not a complete checkpoint"):
        read_sidecar(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_broken_sidecar_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        read_sidecar(tmp_path)


def test_checkpoint_of_another_format_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(UserError, match=r"another version \(format 2\)"):
        read_sidecar(tmp_path)


def test_weights_of_another_network_are_refused_with_the_names_that_differ(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", network(), {})
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    extra = r"unexpected \['2\.(weight|bias)', '2\.(weight|bias)'\]"
    with pytest.raises(UserError, match=rf"missing \['3\.weight', '3\.bias'\], {extra}"):
        load_weights(tmp_path / "model", other)
    with pytest.raises(UserError, match=rf"missing none, {extra}"):
        load_weights(tmp_path / "model", nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", network(), {})
    with pytest.raises(UserError, match=r"the weights cannot be loaded(.|\n)*size mismatch for 0\.weight"):
        load_weights(tmp_path / "model", nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)))


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_weights_that_are_cut_short_are_refused(tmp_path: Path, kept: int) -> None:
    save_checkpoint(tmp_path / "model", network(), {})
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(UserError, match="the weights cannot be loaded"):
        load_weights(tmp_path / "model", network())


def test_weights_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the weights cannot be loaded"):
        load_weights(tmp_path, network())


class Trap:
    """What makes a pickle run code when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_state_with_code_in_it_is_refused_and_not_run(tmp_path: Path, write: Any) -> None:
    proof = tmp_path / "the code ran"
    with (tmp_path / "state.pt").open("wb") as file:
        write({"epoch": 1, "optimizer": Trap(proof)}, file)
    with pytest.raises(UserError, match="the training state cannot be loaded"):
        load_state(tmp_path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_broken_state_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UserError, match="the training state cannot be loaded"):
        load_state(tmp_path)


def test_weights_of_a_network_with_strided_tensors_are_written(tmp_path: Path) -> None:
    model = network()
    model[0].weight.data = model[0].weight.data.t().contiguous().t()
    save_checkpoint(tmp_path / "model", model, {})
    other = network(seed=1)
    load_weights(tmp_path / "model", other)
    assert same(model, other)
