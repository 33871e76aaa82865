"""Claims about what is told before a search: measured on the real network, and by arithmetic that a person can redo."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkout import TINY

from pipeline.config import Params
from pipeline.data.sources import Preview, read_digits
from pipeline.data.splits import make_split, write_split
from pipeline.data.store import open_prepared
from pipeline.data.writing import write_prepared
from pipeline.errors import UserError
from pipeline.ops import measuring, preflight
from pipeline.ops.measuring import StepCost, measure_steps, probe_settings, role_sizes, steps_per_epoch
from pipeline.ops.plan import Plan
from pipeline.ops.preflight import BESIDE, START_S, Estimate, Work, check_disk, check_memory, estimate
from pipeline.tune.runner import Resources
from pipeline.tune.space import SearchSpace
from pipeline.workspace import Workspace

DIGITS = Preview(images=1797, classes=tuple(str(digit) for digit in range(10)), channels=1)
WEIGHT, LAYERS = "regularizer.spatial_entropy.weight", "regularizer.spatial_entropy.layers"
SPACE = SearchSpace(
    "space.yaml",
    {
        WEIGHT: {"type": "float", "low": 0.01, "high": 1.0, "log": True},
        LAYERS: {"type": "categorical", "choices": ["last", "last_two", "all"]},
    },
    {"baseline": {WEIGHT: 0.0}, "paper": {WEIGHT: 0.01, LAYERS: "last"}},
)
COST = StepCost((0.5, 1.0), 0.01, None, 1_000_000, 0.25)
TEN_STEPS = {"train.batch_size": 100, "train.epochs": 16, "search.checkpoint_every": 2}
"""With a thousand images, of which 800 are trained on: eight steps an epoch, and 200 images to score."""
THOUSAND = Preview(images=2000, classes=("a", "b"), channels=1, test_images=1000)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """A plan over a checkout that has nothing yet, with some parameters changed."""

    def make(changes: dict[str, Any] | None = None, **parts: Any) -> Plan:
        given: dict[str, Any] = {
            "workspace": Workspace(tmp_path, tmp_path),
            "params": Params().with_values(
                {"base.device": "cpu", "train.batch_size": 64, **TINY, **(changes or {})}, where="the test"
            ),
            "space": SPACE,
            "resources": Resources(cpus=1, gpus=0.0, at_a_time=2, machine_cpus=2, machine_gpus=0),
            "store": SimpleNamespace(),
            "device": "cpu",
            "source": DIGITS,
            "weights": 1,
            "depth": 3,
            "grid": (6, 6),
        }
        return Plan(**(given | parts))

    return make


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two timed calls a setting are enough for tests."""
    monkeypatch.setattr(measuring, "BUDGET_S", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def prepare(plan: Plan) -> None:
    """What the first two stages do."""
    workspace = plan.workspace
    workspace.prepared.parent.mkdir()
    write_prepared(read_digits(plan.params.prepare.image_size), workspace.prepared)
    opened = open_prepared(workspace.prepared)
    split = make_split(opened.labels, val_fraction=0.2, test_fraction=0.2, seed=0)
    write_split(split, workspace.split, data_hash=opened.data_hash, seed=0)


# Measuring.


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

    monkeypatch.setattr(measuring, "take_step", watched)
    space = replace(SPACE, dimensions={**SPACE.dimensions, "train.batch_size": {"type": "int", "low": 8, "high": 32}})
    resources = Resources(cpus=2, gpus=0.0, at_a_time=1, machine_cpus=2, machine_gpus=0)
    measure_steps(planned({"train.accumulate": 2}, space=space, resources=resources))
    wanted = [(64, 0.0, 2, 2), (64, 0.01, 2, 2), (8, 0.01, 2, 2), (32, 1.0, 2, 2)]
    assert list(dict.fromkeys(seen)) == wanted
    assert len(seen) == 3 * len(wanted)  # one to warm up, two to time


def test_steps_are_augmented_mixed_averaged_and_computed_again_as_the_recipe_says(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    take_step = measuring.take_step

    def watched(model: Any, objective: Any, optimizer: Any, inputs: Any, labels: Any, **given: Any) -> Any:
        seen.append((labels.shape, model.grad_checkpointing, given["config"].precision))
        return take_step(model, objective, optimizer, inputs, labels, **given)

    monkeypatch.setattr(measuring, "take_step", watched)
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
    monkeypatch.setattr(measuring, "_timed", lambda *_, **__: 1.0)
    sizes = {"type": "categorical", "choices": [50, 400]}
    space = replace(SPACE, dimensions={"train.batch_size": sizes})
    plan = planned({"train.batch_size": 100}, source=THOUSAND, space=space)
    # 800 images are 16 steps of 50, 8 of 100 or 2 of 400, each of which takes a second here.
    assert measure_steps(plan).seconds_per_step == (2 / 8, 16 / 8)


def test_settings_measured_are_the_controls_and_both_ends_of_every_dimension() -> None:
    assert probe_settings(SPACE) == [
        {WEIGHT: 0.0},
        {WEIGHT: 0.01, LAYERS: "last"},
        {WEIGHT: 0.01, LAYERS: "last"},
        {WEIGHT: 1.0, LAYERS: "all"},
    ]
    many = replace(SPACE, controls={f"c{number}": {} for number in range(9)})
    assert len(probe_settings(many)) == 6


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

    monkeypatch.setattr(measuring, "take_step", broken)
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        measure_steps(planned())
    assert torch.get_num_threads() == 2


def test_images_are_those_prepared_where_they_fit_and_never_the_tests(planned: Callable[..., Plan]) -> None:
    plan = planned()
    prepare(plan)
    prepared = open_prepared(plan.workspace.prepared)
    sample = measuring._sample(plan, 64, 32, torch.device("cpu"))
    split = measuring.read_split(plan.workspace.split, data_hash=prepared.data_hash)
    for role in ("train", "val"):
        own = {image.tobytes() for image in prepared.images[getattr(split, role)]}
        assert {image.tobytes() for image in sample.prepared.images[sample.ids(role)]} <= own
        assert len(np.unique(sample.prepared.labels[sample.ids(role)])) == 10
    other = measuring._sample(planned({"prepare.image_size": 16}), 8, 4, torch.device("cpu"))
    assert other.prepared.images.shape == (12, 16, 16, 1)
    assert other.prepared.classes == DIGITS.classes
    assert (len(other.split.train), len(other.split.val), len(other.split.test)) == (8, 4, 0)


def test_images_are_taken_from_all_over_a_role_since_sets_are_often_sorted_by_class() -> None:
    assert measuring._spread(np.arange(100, 200), 5).tolist() == [100, 124, 149, 174, 199]


def test_end_of_the_ranges_that_no_network_has_is_left_out(planned: Callable[..., Plan]) -> None:
    deep = replace(SPACE, dimensions={LAYERS: {"type": "categorical", "choices": [[0], [9]]}})
    assert measure_steps(planned(space=deep)).seconds_per_step[0] > 0
    nothing = replace(deep, dimensions={LAYERS: {"choices": [[8], [9]]}}, controls={})
    with pytest.raises(UserError, match=r"space\.yaml: the network can be built with no control"):
        measure_steps(planned(space=nothing))


def test_step_that_runs_out_of_memory_is_refused_with_advice(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(measuring, "take_step", starve)
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

    monkeypatch.setattr(measuring, "write_checkpoint", full)
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


# Estimating.


def test_estimate_is_what_can_be_worked_out_by_hand(planned: Callable[..., Plan]) -> None:
    plan = planned({**TEN_STEPS, "search.scheduler.grace_period": 4}, source=THOUSAND)
    found = estimate(plan, COST, Work(trials=12, full_runs=2, epochs=16, at_a_time=2, gpus=0.0))
    # An epoch: eight steps of 0.5 to 1 s, 200 images of 0.01 s, and every second time a checkpoint, written twice.
    assert found.epoch == (4 + 2 + 0.25, 8 + 2 + 0.25)
    # Rungs at 4 and 8 let a half through each: 3 of 12 trials and 2 controls run 16 epochs, 9 trials run 4.
    assert found.seconds[0] == pytest.approx(START_S[0] + (5 * 16 + 9 * 4) / 2 * 6.25)
    # In full, 14 runs two at a time are seven rounds.
    assert found.seconds[1] == pytest.approx(START_S[1] + 7 * 16 * 10.25 * BESIDE)
    assert (found.gpu_hours, found.cost) == (None, None)


def test_without_a_scheduler_every_trial_runs_in_full(planned: Callable[..., Plan]) -> None:
    plan = planned({**TEN_STEPS, "search.scheduler.name": "none"}, source=THOUSAND)
    found = estimate(plan, COST, Work(trials=3, full_runs=0, epochs=16, at_a_time=1, gpus=0.0))
    assert found.seconds == pytest.approx((START_S[0] + 3 * 16 * 6.25, START_S[1] + 3 * 16 * 10.25))


def test_search_is_no_shorter_than_its_longest_run(planned: Callable[..., Plan]) -> None:
    plan = planned(TEN_STEPS, source=THOUSAND)
    found = estimate(plan, COST, Work(trials=2, full_runs=1, epochs=16, at_a_time=8, gpus=0.0))
    assert found.seconds[0] == pytest.approx(START_S[0] + 16 * 6.25)


def test_grace_as_long_as_a_run_stops_nothing(planned: Callable[..., Plan]) -> None:
    plan = planned({**TEN_STEPS, "search.scheduler.grace_period": 16}, source=THOUSAND)
    found = estimate(plan, COST, Work(trials=5, full_runs=0, epochs=16, at_a_time=1, gpus=0.0))
    assert found.seconds[0] == pytest.approx(START_S[0] + 5 * 16 * 6.25)


@pytest.mark.parametrize(("gpus", "at_a_time", "slowing", "held"), [(1.0, 2, 1, 2), (0.25, 4, 4, 1), (0.25, 2, 2, 0.5), (0.3, 8, 3, 2.4), (2.0, 2, 1, 4)])  # fmt: skip
def test_gpu_hours_and_cost_follow_the_gpus_held(
    planned: Callable[..., Plan], gpus: float, at_a_time: int, slowing: int, held: float
) -> None:
    plan = planned(TEN_STEPS, source=THOUSAND)
    found = estimate(plan, COST, Work(trials=7, full_runs=1, epochs=16, at_a_time=at_a_time, gpus=gpus), price=3.0)
    assert found.seconds[1] == pytest.approx(START_S[1] + -(-8 // at_a_time) * 16 * 10.25 * slowing)
    assert found.gpu_hours == pytest.approx(tuple(seconds / 3600 * held for seconds in found.seconds))
    assert found.cost == pytest.approx(tuple(seconds / 3600 * held * 3.0 for seconds in found.seconds))


def test_gpus_that_no_run_needs_are_not_counted(planned: Callable[..., Plan]) -> None:
    found = estimate(planned(), COST, Work(trials=1, full_runs=1, epochs=3, at_a_time=8, gpus=1.0))
    assert found.gpu_hours == pytest.approx(tuple(seconds / 3600 * 2 for seconds in found.seconds))


def test_price_without_gpus_is_of_the_machine(planned: Callable[..., Plan]) -> None:
    found = estimate(planned(), COST, Work(4, 1, 3, 2, 0.0), price=2.0)
    assert found.cost == pytest.approx(tuple(seconds / 3600 * 2.0 for seconds in found.seconds))


def test_low_is_below_high_for_any_work(planned: Callable[..., Plan]) -> None:
    plan = planned(TEN_STEPS, source=THOUSAND)
    flat = replace(COST, seconds_per_step=(1.0, 1.0))
    for trials, full, at_a_time in ((1, 0, 1), (1, 1, 4), (7, 3, 3), (1000, 2, 16), (0, 5, 2)):
        found = estimate(plan, flat, Work(trials, full, 16, at_a_time, 1.0))
        assert 0 < found.seconds[0] < found.seconds[1]


def test_nothing_to_run_takes_nothing(planned: Callable[..., Plan]) -> None:
    found = estimate(planned(), COST, Work(0, 0, 16, 2, 1.0), price=2.0)
    assert (found.seconds, found.gpu_hours, found.cost) == ((0.0, 0.0),) * 3


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ((20.0, 80.0), "20 to 80 seconds"),
        ((240.0, 540.0), "4 to 9 minutes"),
        ((45.0, 93.0), "0.8 to 1.6 minutes"),
        ((5000.0, 9000.0), "1.4 to 2.5 hours"),
        ((90_000.0, 3_000_000.0), "1 to 35 days"),
        ((600.0, 600.0), "10 minutes"),
    ],
)
def test_duration_is_told_in_the_unit_of_its_high_end(seconds: tuple[float, float], said: str) -> None:
    lines = Estimate(seconds, (0.312, 0.312), None, None).describe()
    assert lines == [f"expected  {said} for the search (0.31 s an epoch measured just now)"]


def test_gpu_hours_and_cost_are_told_where_there_are_any() -> None:
    lines = Estimate((3600.0, 7200.0), (0.8, 12.3), (2.0, 4.0), (5.0, 10.5)).describe()
    assert lines == [
        "expected  1 to 2 hours for the search (0.80 to 12 s an epoch measured just now)",
        "          2 to 4 GPU-hours, a cost of 5.00 to 10.50",
    ]


# Refusing.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 10 GB."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=10_000_000_000))


def on_gpu(share: float) -> dict[str, Any]:
    return {"device": "cuda", "resources": Resources(1, share, 2, 2, 1)}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("share", "fits"), [(1.0, 10_000_000_000), (0.25, 2_500_000_000), (2.0, 10_000_000_000)])
def test_step_beyond_the_share_of_a_gpu_is_refused(planned: Callable[..., Plan], share: float, fits: int) -> None:
    plan = planned(**on_gpu(share))
    check_memory(replace(COST, memory_bytes=fits), plan)
    with pytest.raises(UserError, match=r"^params\.yaml: .*train\.accumulate to 2.*It needs .* GB; there are"):
        check_memory(replace(COST, memory_bytes=fits + 1), plan)


@pytest.mark.usefixtures("gpu")
def test_refusal_of_memory_tells_both_sizes_and_the_share(planned: Callable[..., Plan]) -> None:
    with pytest.raises(UserError) as refused:
        check_memory(replace(COST, memory_bytes=4_000_000_000), planned(**on_gpu(0.25)))
    assert "25% of a GPU (search.gpus_per_trial 0.25)" in str(refused.value)
    assert str(refused.value).endswith("It needs 4 GB; there are 2.5 GB.")


def test_memory_of_a_cpu_is_not_judged(planned: Callable[..., Plan]) -> None:
    check_memory(COST, planned())


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> list[Path]:
    asked: list[Path] = []
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(total=free, used=0, free=free)
    )
    return asked


def test_disk_too_small_for_the_checkpoints_is_refused(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Five kept and two of running trials, of 1 MB each, twice.
    asked = disk(monkeypatch, 14_000_000)
    check_disk(COST, planned(), kept_checkpoints=5)
    assert asked == [tmp_path]  # state/ is not there yet
    disk(monkeypatch, 13_999_999)
    elsewhere = replace(planned().resources, address="head:6379")
    check_disk(COST, planned({"search.cluster.storage": "s3://bucket/x"}, resources=elsewhere), kept_checkpoints=5)
    with pytest.raises(UserError, match="/shared: 14 MB are free"):
        check_disk(COST, planned({"search.cluster.storage": "/shared"}, resources=elsewhere), kept_checkpoints=5)
    with pytest.raises(UserError) as refused:
        check_disk(COST, planned(), kept_checkpoints=5)
    assert str(refused.value) == (
        f"{tmp_path / 'state'}: 14 MB are free there, and 7 checkpoints of 1 MB (5 kept, 2 of running trials) need 14 MB "
        "with room to spare. Lower search.keep_checkpoints, free space, or move the checkout to a disk that has more."
    )


def test_preflight_measures_checks_and_estimates(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(trials=2, full_runs=2, epochs=3, at_a_time=2, gpus=0.0)
    found = preflight.preflight(planned(), work, price=1.0, kept_checkpoints=1)
    assert START_S[0] < found.seconds[0] < found.seconds[1] < 600
    assert found.cost is not None
    disk(monkeypatch, 1000)
    with pytest.raises(UserError, match=r"search\.keep_checkpoints"):
        preflight.preflight(planned(), work, kept_checkpoints=1)
    monkeypatch.setattr(preflight, "measure_steps", lambda _: replace(COST, memory_bytes=2**60))
    monkeypatch.setattr(preflight, "_gpu_bytes", lambda _: 2**30)
    with pytest.raises(UserError, match=r"train\.accumulate"):
        preflight.preflight(planned(**on_gpu(1.0)), work)
