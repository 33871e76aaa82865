"""The benchmarks end as they should where this machine cannot run them, and where little is installed."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import run_all
import torch
from copied import ROOT
from entropy_released import SIDES
from entropy_restated import clear_of_the_cut, nasty_maps, random_maps, slow
from harness import SKIPPED
from torch import Tensor


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


BARE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "optuna", "mlflow", "dvc", "pydantic"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import runpy

sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bare(*words: str) -> "subprocess.CompletedProcess[str]":
    """The GPU's benchmark in a Python that lacks everything of the search."""
    places = [str(ROOT), str(ROOT / "benchmarks")]
    command = [sys.executable, "-c", BARE, *places, str(ROOT / "benchmarks" / "training_step.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_training_step_runs_where_nothing_of_the_search_is_installed() -> None:
    small = ["--model", "vit_tiny_patch16_224", "--side", "32", "--batch", "4", "--steps", "1", "--repetitions", "1"]
    ended = bare("--anywhere", "--eager", *small)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split("|")[1].strip() for line in ended.stdout.splitlines() if line.startswith("|")]
    assert rows == ["", "---", "SAR on, all blocks", "SAR off", "timm"]
    assert "say nothing of a GPU" in ended.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is skipped")
def test_training_step_is_skipped_with_the_reason_where_there_is_no_gpu() -> None:
    ended = bare()
    assert ended.returncode == SKIPPED
    assert ended.stdout == "skipped: needs a CUDA device, and torch sees none here\n"


SCRIPTS = {
    "fine": "print('| a table |')",
    "elsewhere": "from harness import skip; print('so far'); skip('needs the moon')",
    "broken": "raise SystemExit(3)",
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
        assert errors == "error: no benchmark moon; there are broken, elsewhere, fine\n"
        return
    told = {"fine": "| fine | done |", "elsewhere": "| elsewhere | skipped |", "broken": "| broken | FAILED |"}
    for name in asked or told:
        assert told[name] in said
    if "elsewhere" in (asked or told):
        assert "| needs the moon |" in said
        assert "| a table |" in said


def test_every_script_of_the_folder_is_a_benchmark_or_known_to_be_none() -> None:
    assert {"batches", "search_overhead", "training_step", "trial_cost"} <= set(run_all.benchmarks())
    for name in run_all.benchmarks():
        assert '__name__ == "__main__"' in (ROOT / "benchmarks" / f"{name}.py").read_text()
