"""The benchmarks: their other sides do the same work, and each is told, with what this machine cannot run and why."""

from collections.abc import Callable, Sequence
from pathlib import Path

import batches
import freeze_step
import numpy as np
import power
import pytest
import rare_class
import run_all
import torch
from copied import ROOT
from digits import digits
from entropy_released import SIDES
from PIL import Image
from scipy import stats
from support.reference_entropy import clear_of_the_cut, nasty_maps, random_maps, slow
from torch import Tensor
from torchvision import transforms

from pipeline.data.batches.batches import standardisation
from pipeline.score.forecast import REACHED


def agrees(theirs: Callable[[Tensor], Tensor], maps: Tensor) -> None:
    entropies, gradients = slow(maps, 0.0, 8)
    leaf = maps.clone().requires_grad_()
    mean = theirs(leaf)
    (gradient,) = torch.autograd.grad(mean, leaf)
    torch.testing.assert_close(mean, entropies.mean(), rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient * len(maps), gradients, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("side", SIDES)
def test_other_sides_of_spatial_entropy_are_what_the_definition_says(side: str) -> None:
    for maps, _ in random_maps(3, count=56):
        clear = maps[clear_of_the_cut(maps, 0.0)]
        if len(clear):
            agrees(SIDES[side], clear)
    shapes = {name: single for name, single in nasty_maps(9).items() if name.endswith("uneven")}
    agrees(SIDES[side], torch.stack(list(shapes.values())))


def test_components_of_neighbouring_maps_stay_apart_when_all_are_labelled_at_once() -> None:
    board = (torch.arange(5)[:, None] + torch.arange(5)).remainder(2).double()
    full = 1.0 + torch.arange(25, dtype=torch.float64).reshape(5, 5).flip(0)
    for maps in (torch.stack([board, 1 - board]), torch.stack([full.flip(0), full, full.T])):
        agrees(SIDES["one cv2 call for all maps"], maps)


def test_other_sides_of_the_feed_give_standardised_windows_of_the_images() -> None:
    images = batches.made(6, 8)
    scale = standardisation(images)
    pictures = batches.Pictures(images, lambda picture: picture)
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(scale.mean, scale.std)])
    expected = torch.stack([plain(Image.fromarray(each)) for each in images])
    collated = batches.Collate(scale)([pictures[number] for number in range(6)])
    torch.testing.assert_close(collated, expected, rtol=0, atol=1e-5)
    padded = torch.nn.functional.pad(torch.from_numpy(images).permute(0, 3, 1, 2), (1,) * 4)
    windows = batches.normalised(
        padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 8, 8), scale
    )
    either = torch.cat([windows, windows.flip(-1)]).flatten(1)
    torch.manual_seed(0)
    (batch,) = batches.by_hand(images)()
    distance = torch.cdist(batch.flatten(1), either, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.min(dim=1)
    assert nearest.values.max() < 1e-5
    assert sorted((nearest.indices % len(windows) // 9).tolist()) == list(range(6))


SCRIPTS = {
    "fine": "print('| a table |')",
    "elsewhere": "from harness import skip; print('so far'); skip('needs the moon')",
    "broken": "raise SystemExit(3)",
    "gpu": "raise SystemExit(2)",
}


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "harness.py").write_text((ROOT / "benchmarks" / "harness.py").read_text())
    monkeypatch.setattr(run_all, "HERE", tmp_path)


@pytest.mark.parametrize(("asked", "status"), [([], 1), (["fine", "elsewhere"], 0), (["broken"], 1), (["moon"], 2)])
def test_all_benchmarks_are_told_with_what_was_skipped_and_why(
    asked: Sequence[str], status: int, scripts: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_all.main(list(asked)) == status
    said, errors = capfd.readouterr()
    if status == 2:
        assert errors == "error: no benchmark moon; there are broken, elsewhere, fine, gpu\n"
        return
    told = {"fine": "| fine | done |", "elsewhere": "| elsewhere | skipped |", "broken": "| broken | FAILED |"}
    told["gpu"] = "| gpu | skipped |"
    for name in asked or told:
        assert told[name] in said
    if "elsewhere" in (asked or told):
        assert "| needs the moon |" in said
        assert "| a table |" in said


def test_every_script_of_the_folder_is_a_benchmark_or_known_to_be_none() -> None:
    assert {"batches", "search_overhead", "gpu", "trial_cost"} <= set(run_all.benchmarks())
    for name in run_all.benchmarks():
        assert '__name__ == "__main__"' in (ROOT / "benchmarks" / f"{name}.py").read_text()


@pytest.mark.parametrize("seeds", [2, 5])
def test_paired_interval_of_the_power_simulation_is_that_of_all_images(seeds: int) -> None:
    """It is worked out of hard images alone, since no network differs on the others."""
    images, rng = 200, np.random.default_rng(seeds)
    hard = power.draw(rng, power.Scenario(0.01, 2, images, hard=0.3), 2, seeds, images)
    whole = power.with_easy(hard, images).astype(float)
    assert whole.shape == (2, seeds, images)
    difference = whole[0] - whole[1]
    left = difference - difference.mean(axis=1, keepdims=True) - difference.mean(axis=0) + difference.mean()
    both = np.square(left).sum() / ((seeds - 1) * (images - 1)) / (seeds * images)
    of_seeds, alone = difference.mean(axis=1).var(ddof=1) / seeds, difference.mean(axis=0).var(ddof=1) / images
    of_images = max(0.0, alone - both)
    freedom = (of_seeds + of_images) ** 2 / (of_seeds**2 / (seeds - 1) + of_images**2 / (images - 1))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(of_seeds + of_images)
    half = max(half, stats.t.ppf(0.975, images - 1) * np.sqrt(alone))
    assert np.count_nonzero(difference.mean(axis=0)) >= power.FEW_DISCORDANT
    found = power.lower_end(hard[0].astype(float) - hard[1].astype(float), images)
    assert found == pytest.approx(difference.mean() - half, abs=1e-12)


def test_plans_of_auto_have_power_where_the_margin_is_in_reach() -> None:
    """A quick look at one scenario; docs/benchmarks/power.md has the figures."""
    found = power.simulate(power.Scenario(0.006, 2, 359, margin=0.02), 60)
    assert found.reachable
    assert 0.6 < np.mean(found.shown) < 1.0
    assert 2 <= min(found.seeds) <= max(found.seeds) <= power.MAX_SEEDS
    assert found.reasons.count(REACHED) > 30


@pytest.mark.parametrize("digit", [0, 8])
def test_rare_digit_is_three_percent_of_what_is_trained_on_and_the_others_are_as_they_were(digit: int) -> None:
    whole = digits(8)
    labels, train = whole.prepared.labels, whole.split.train
    first, again, other = (rare_class.with_rare(whole, digit, 0.03, seed=seed) for seed in (0, 0, 1))
    assert np.mean(labels[first.split.train] == digit) == pytest.approx(0.03, abs=0.0005)
    others = [ids[labels[ids] != digit].tolist() for ids in (first.split.train, train)]
    assert others[0] == others[1]
    assert set(first.split.train) < set(train)
    assert first.split.val.tolist() == sorted([*whole.split.val, *whole.split.test])
    assert first.split.train.tolist() == again.split.train.tolist() != other.split.train.tolist()


@pytest.mark.usefixtures("one_thread")
def test_steps_with_frozen_blocks_can_be_timed_on_every_side() -> None:
    """A quick look at three steps; what share of a whole one they take is the command's to say."""
    found = freeze_step.measure(3, warm_up=1)
    assert found.keys() == freeze_step.SIDES.keys()
    assert all(len(timing.times) == 3 and min(timing.times) > 0 for timing in found.values())
