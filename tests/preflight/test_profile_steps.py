"""Claims about what is measured before a search: the steps that are timed are those that its trials will make."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.example_plans import DIGITS, LAYERS, SPACE, THOUSAND, WEIGHT

from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.sources.image_source import read_digits
from pipeline.data.splits.split import make_split, write_split
from pipeline.errors import UserError
from pipeline.preflight import profile
from pipeline.preflight.plan import Plan
from pipeline.preflight.profile import measure_steps, probe_configs, role_sizes, steps_per_epoch
from pipeline.tune.task import Resources

pytestmark = pytest.mark.usefixtures("quick_steps")


def prepare(plan: Plan) -> None:
    """What the first two stages do."""
    workspace = plan.workspace
    workspace.prepared.parent.mkdir()
    write_prepared(read_digits(plan.params.prepare.image_size), workspace.prepared)
    opened = open_prepared(workspace.prepared)
    split = make_split(opened.labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    write_split(split, workspace.split, data_hash=opened.data_hash, seed=0)


@pytest.mark.parametrize("prepared", [False, True])
def test_measured_cost_is_that_of_real_steps(planned: Callable[..., Plan], prepared: bool) -> None:
    plan = planned()
    if prepared:
        prepare(plan)
    cost = measure_steps(plan)
    low, high = cost.seconds_per_step
    assert 1e-4 < low < high < 5
    assert 1e-6 < cost.seconds_per_val_image < low
    assert cost.memory_bytes is None
    assert 0 < cost.seconds_per_checkpoint < 5


def test_checkpoint_is_weighed_with_its_optimizer(planned: Callable[..., Plan]) -> None:
    small = measure_steps(planned()).checkpoint_bytes
    wide = {"patch_size": 2, "embed_dim": 64, "depth": 3, "num_heads": 2}
    large = measure_steps(planned({"model.kwargs": wide})).checkpoint_bytes
    # Every block of width d has 12 d^2 weights in its matrices, each with two moments beside it, of four bytes each.
    assert large - small == pytest.approx(3 * 12 * (64**2 - 16**2) * 3 * 4, rel=0.1)


def test_steps_are_those_of_every_setting_with_its_own_network_and_batch(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float, int, int]] = []

    def watched(model: Any, objective: Any, optimizer: Any, inputs: Any, labels: Any, **given: Any) -> Any:
        weight = objective.weights(given["epoch"])["spatial_entropy"]
        seen.append((len(labels), weight, given["config"].accumulate, torch.get_num_threads()))

    monkeypatch.setattr(profile, "take_step", watched)
    space = replace(SPACE, dimensions={**SPACE.dimensions, "train.batch_size": {"type": "int", "low": 8, "high": 32}})
    resources = Resources(cpus=2, gpus=0.0, max_concurrent=1, machine_cpus=2, machine_gpus=0)
    measure_steps(planned({"train.accumulate": 2}, space=space, resources=resources))
    wanted = [(64, 0.0, 2, 2), (64, 0.01, 2, 2), (8, 0.01, 2, 2), (32, 1.0, 2, 2)]
    assert list(dict.fromkeys(seen)) == wanted
    assert len(seen) == 3 * len(wanted)  # one to warm up, two to time


def test_steps_are_augmented_mixed_averaged_and_computed_again_as_the_recipe_says(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    take_step = profile.take_step

    def watched(model: Any, objective: Any, optimizer: Any, inputs: Any, labels: Any, **given: Any) -> Any:
        seen.append((labels.shape, model.grad_checkpointing, given["config"].precision))
        return take_step(model, objective, optimizer, inputs, labels, **given)

    monkeypatch.setattr(profile, "take_step", watched)
    recipe = {"mixup": 0.8, "cutmix": 1.0, "augment": "deit", "erasing": 0.25, "precision": "bfloat16"}
    recipe |= {"grad_checkpointing": True, "ema_decay": 0.99, "accumulate": 2}
    plain = measure_steps(planned()).checkpoint_bytes
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    seen.clear()
    cost = measure_steps(planned({f"train.{name}": value for name, value in recipe.items()}))
    assert set(seen) == {((64, 10), True, "bfloat16")}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # type: ignore[index, union-attr]
    # A checkpoint has the weights twice then, beside the optimizer's two moments of each.
    assert cost.checkpoint_bytes / plain == pytest.approx(4 / 3, rel=0.1)


def test_cost_of_other_batch_sizes_is_told_in_steps_of_the_plan(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "_time_calls", lambda *_, **__: 1.0)
    sizes = {"type": "categorical", "choices": [50, 400]}
    space = replace(SPACE, dimensions={"train.batch_size": sizes})
    plan = planned({"train.batch_size": 100}, source=THOUSAND, space=space)
    # 800 images are 16 steps of 50, 8 of 100 or 2 of 400, each of which takes a second here.
    assert measure_steps(plan).seconds_per_step == (2 / 8, 16 / 8)


def test_settings_measured_are_the_controls_and_both_ends_of_every_dimension() -> None:
    assert probe_configs(SPACE) == [
        {WEIGHT: 0.0},
        {WEIGHT: 0.01, LAYERS: "last"},
        {WEIGHT: 0.01, LAYERS: "last"},
        {WEIGHT: 1.0, LAYERS: "all"},
    ]
    many = replace(SPACE, controls={f"c{number}": {} for number in range(9)})
    assert len(probe_configs(many)) == 6


def test_threads_and_random_streams_are_left_as_they_were(planned: Callable[..., Plan]) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(7)
    random.seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    measure_steps(planned())
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # type: ignore[index]


def test_threads_are_left_as_they_were_when_measuring_fails(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(profile, "take_step", broken)
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        measure_steps(planned())
    assert torch.get_num_threads() == 2


def test_images_are_those_prepared_where_they_fit_and_never_the_tests(planned: Callable[..., Plan]) -> None:
    plan = planned()
    prepare(plan)
    prepared = open_prepared(plan.workspace.prepared)
    sample = profile._sample(plan, 64, 32, torch.device("cpu"))
    split = profile.read_split(plan.workspace.split, data_hash=prepared.data_hash)
    for role in ("train", "val"):
        own = {image.tobytes() for image in prepared.images[getattr(split, role)]}
        assert {image.tobytes() for image in sample.prepared.images[sample.ids(role)]} <= own
        assert len(np.unique(sample.prepared.labels[sample.ids(role)])) == 10
    other = profile._sample(planned({"prepare.image_size": 16}), 8, 4, torch.device("cpu"))
    assert other.prepared.images.shape == (12, 16, 16, 1)
    assert other.prepared.classes == DIGITS.classes
    assert (len(other.split.train), len(other.split.val), len(other.split.test)) == (8, 4, 0)


def test_images_are_taken_from_all_over_a_role_since_sets_are_often_sorted_by_class() -> None:
    assert profile._spread(np.arange(100, 200), 5).tolist() == [100, 124, 149, 174, 199]


def test_end_of_the_ranges_that_no_network_has_is_left_out(planned: Callable[..., Plan]) -> None:
    deep = replace(SPACE, dimensions={LAYERS: {"type": "categorical", "choices": [[0], [9]]}})
    assert measure_steps(planned(space=deep)).seconds_per_step[0] > 0
    nothing = replace(deep, dimensions={LAYERS: {"choices": [[8], [9]]}}, controls={})
    with pytest.raises(UserError, match=r"space\.yaml: the network cannot be built with the controls"):
        measure_steps(planned(space=nothing))


def test_step_that_runs_out_of_memory_is_refused_with_advice(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(profile, "take_step", starve)
    with pytest.raises(
        UserError, match=r"^params\.yaml: .*train\.batch_size 64.*Set train\.accumulate to 2"
    ) as refused:
        measure_steps(planned())
    assert "search.max_concurrent_trials" in str(refused.value)


def test_temporary_folder_without_room_is_refused_by_name(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profile, "write_checkpoint", full)
    with pytest.raises(UserError, match=r"No space left on device.*TMPDIR"):
        measure_steps(planned())


@pytest.mark.gpu
def test_memory_of_a_step_is_measured_on_a_gpu(planned: Callable[..., Plan]) -> None:
    whole = measure_steps(planned({"base.device": "cuda"}, device="cuda"))
    parts = measure_steps(planned({"base.device": "cuda", "train.accumulate": 8}, device="cuda"))
    assert whole.memory_bytes is not None
    assert parts.memory_bytes is not None
    assert parts.memory_bytes < whole.memory_bytes


def test_roles_have_the_sizes_that_the_split_will_give_them(planned: Callable[..., Plan]) -> None:
    assert role_sizes(planned()) == (1150, 288)  # the real split of the digits: 1,151 and 287
    assert steps_per_epoch(planned()) == 18
    tenth = {"split.train_fraction": 0.1, "split.val_fraction": 0.3}
    assert role_sizes(planned(tenth, source=THOUSAND)) == (70, 30)
