"""Claims about the optimizers, their groups, and the learning rate of every step."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from pipeline.config import parameters
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.train.checkpoint import load_state, load_weights, save_checkpoint
from pipeline.train.optim import make_optimizer, make_schedule
from pipeline.train.train_config import TrainConfig


def config(
    *,
    epochs: int = 10,
    lr: float = 0.1,
    min_lr: float = 0.0,
    warmup_epochs: int = 2,
    weight_decay: float = 0.3,
    **options: Any,
) -> TrainConfig:
    return TrainConfig(epochs, 8, lr, min_lr, warmup_epochs, weight_decay, 0.0, None, **options)


def rates(given: TrainConfig, steps: int) -> list[float]:
    """The learning rate of every step of a run."""
    optimizer = make_optimizer(nn.Linear(2, 2), given)
    schedule = make_schedule(optimizer, given, steps)
    found = []
    for step in range(given.epochs * steps):
        schedule.step_update(step)
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_rate_rises_linearly_over_the_warmup_and_is_never_0_there() -> None:
    assert rates(config(), steps=2)[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


def test_rate_falls_as_a_cosine_from_the_peak_to_the_last_rate() -> None:
    after = rates(config(min_lr=0.01), steps=2)[4:]
    assert after == pytest.approx([0.01 + 0.045 * (1 + math.cos(math.pi * step / 16)) for step in range(16)])
    assert after[0] == 0.1
    assert after[-1] == pytest.approx(0.010865, abs=1e-6)


def test_rate_without_warmup_starts_at_the_peak() -> None:
    assert rates(config(warmup_epochs=0), steps=3)[0] == 0.1


def test_rate_of_a_run_that_is_all_warmup_only_rises() -> None:
    found = rates(config(epochs=3, warmup_epochs=7), steps=2)
    assert found == pytest.approx([0.1 * step / 7 for step in range(1, 7)])


def test_rate_of_a_run_of_one_step_is_finite() -> None:
    assert rates(config(epochs=1, warmup_epochs=0), steps=1) == [0.1]
    assert rates(config(epochs=1, warmup_epochs=1), steps=1) == pytest.approx([0.05])


def test_rate_of_a_step_does_not_depend_on_the_steps_before() -> None:
    given = config()
    optimizer = make_optimizer(nn.Linear(2, 2), given)
    make_schedule(optimizer, given, 2).step_update(13)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rates(given, steps=2)[13])


def test_decay_spares_biases_norms_and_what_the_network_names() -> None:
    tiny = ModelConfig(
        "vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}, "xavier", 0
    )
    model = build_model(tiny, num_classes=3, image_size=(12, 12), channels=1)
    optimizer = make_optimizer(model, config(weight_decay=0.3))
    assert isinstance(optimizer, torch.optim.AdamW)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {names[weight]: group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert len(decay) == len(names)
    assert {name for name, amount in decay.items() if amount == 0.3} == {
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "head.weight",
    }
    assert {amount for name, amount in decay.items() if amount != 0.3} == {0.0}


def test_warmup_starts_at_its_own_rate_where_one_is_given() -> None:
    found = rates(config(warmup_lr=1e-6), steps=2)
    assert found[:5] == pytest.approx([1e-6 + step / 4 * (0.1 - 1e-6) for step in range(5)])
    assert found[4:] == rates(config(), steps=2)[4:]
    assert rates(config(warmup_lr=0.0), steps=2)[0] == 0.0


def test_rate_falls_as_a_line_or_stays() -> None:
    line = rates(config(min_lr=0.01, scheduler="linear"), steps=2)
    assert line[:4] == rates(config(), steps=2)[:4]
    assert line[4:] == pytest.approx([0.1 - 0.09 * step / 16 for step in range(16)])
    constant = rates(config(min_lr=0.01, scheduler="constant"), steps=2)
    assert constant[:4] == line[:4]
    assert constant[4:] == pytest.approx([0.1] * 16)
    with pytest.raises(ValueError, match="unknown schedule of the learning rate 'step'"):
        rates(config(scheduler="step"), steps=2)


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))


def loss_of(model: nn.Module) -> torch.Tensor:
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())


def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()


OPTIMIZERS = get_args(parameters()["train.optimizer"].annotation)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_spares_biases_and_what_is_trained_beside(name: str) -> None:
    model, beside = small(), nn.Linear(2, 2)
    optimizer = make_optimizer(model, config(optimizer=name, lr=0.01), beside=beside)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3, 0.0, 0.3]
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    before = loss_of(model).item()
    go_on(model, optimizer, 40)
    assert loss_of(model).item() < 0.9 * before


def test_optimizers_are_timms_of_those_names() -> None:
    made = {name: type(make_optimizer(small(), config(optimizer=name))).__name__ for name in OPTIMIZERS}
    assert made == {"adamw": "AdamW", "nadamw": "NAdamW", "lamb": "Lamb", "lion": "Lion", "sgd": "SGD"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_from_a_checkpoint_as_if_there_had_been_none(name: str, tmp_path: Path) -> None:
    whole = small()
    optimizer = make_optimizer(whole, config(optimizer=name, lr=0.01))
    go_on(whole, optimizer, 5)
    save_checkpoint(tmp_path / "five", whole, {}, state={"optimizer": optimizer.state_dict()})
    go_on(whole, optimizer, 5)
    other = small(seed=1)
    load_weights(tmp_path / "five", other)
    resumed = make_optimizer(other, config(optimizer=name, lr=0.01))
    resumed.load_state_dict(load_state(tmp_path / "five")["optimizer"])
    go_on(other, resumed, 5)
    for first, second in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)
