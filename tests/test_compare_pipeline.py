"""The whole line of `sar-search compare --run`: two methods and a tuned control, left alone and killed on the way."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.checkout import TINY, Checkout

from pipeline.artifacts.evaluations import read_evaluations
from pipeline.state.searches import find_searches

METHODS = "tv,sp_vit"
SETTINGS = TINY | {
    "model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 4, "num_heads": 2},
    "train.epochs": 2,
    "search.scheduler.name": "none",
    "search.scheduler.grace_period": None,
    "search.max_concurrent_trials": 1,
    "search.confirm.seeds": 0,
}
COMMAND = (sys.executable, "-m", "pipeline.cli", "compare", "--run", METHODS, "--no-measure")


def found(checkout: Checkout) -> dict[str, Any]:
    """comparison.json without the times that it took."""
    content: dict[str, Any] = json.loads((checkout.root / "results" / "compare" / "comparison.json").read_text())
    for each in content["methods"]:
        del each["retraining_seconds"], each["cost"]["hours"]
    del content["control_cost"]["hours"]
    return content


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("alone"), SETTINGS)
    done = checkout.run(*COMMAND)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (checkout.root / "said.txt").write_text(done.stdout)
    return checkout


@pytest.mark.slow
def test_methods_and_control_are_searched_retrained_and_tested_as_one_family(left_alone: Checkout) -> None:
    root, content = left_alone.root, found(left_alone)
    assert [each["name"] for each in content["methods"]] == ["tv", "sp_vit"]
    assert (content["family"], content["look"]) == (4, 1)  # accuracy and attention of both, in one look
    assert content["against"] == "baseline, its recipe tuned by a search with the same budget (train.lr)"
    looks = (root / "state" / "looks.jsonl").read_text().splitlines()
    (look,) = map(json.loads, looks)
    assert (look["by"], len(look["networks"])) == ("compare", 6)  # two methods and one control, two seeds each
    assert len(find_searches(root / "state" / "searches").searches) == 3
    stored = read_evaluations(root / "state")
    assert len({each.test for each in stored}) == 1
    assert [each.look for each in stored] == [1, 1]
    assert len({each.control_correct.tobytes() for each in stored}) == 1
    said = (root / "said.txt").read_text()
    assert "control: baseline" in said
    assert said.count("\npower     ") == said.count("\nretrain   ") == 1  # of the comparison, not of every method
    assert "\ndataset   " not in said
    assert "changed since search" not in said
    assert said.count("This is look 1 at these test images.") == 2
    assert "results/compare/index.html" in said
    for name in ("tv", "sp_vit"):
        assert (root / "results" / "compare" / name / "report" / "index.html").is_file()
    page = (root / "results" / "compare" / "index.html").read_text()
    assert f"sar-search compare --run {METHODS}" in page


@pytest.mark.slow
def test_the_users_parameters_and_results_are_as_they_were(left_alone: Checkout) -> None:
    root = left_alone.root
    changed = left_alone.run("git", "diff", "--stat", "--", "params.yaml", "search_spaces").stdout
    assert "search_spaces" not in changed
    assert sorted(path.name for path in (root / "results").iterdir()) == ["compare"]
    assert not (root / "models").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_on_the_way_the_same_command_comes_to_the_same_table(left_alone: Checkout, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "killed", SETTINGS)
    for reached in (
        lambda: any((checkout.root / "state" / "searches").glob("*/journal.jsonl")),
        lambda: any((checkout.root / "state" / "retrain").glob("*/*.safetensors")),
    ):
        process = checkout.start(*COMMAND)
        try:
            while not reached() and process.poll() is None:
                time.sleep(0.2)
            assert process.poll() is None
            time.sleep(1)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    done = _when_free(checkout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert found(checkout) == found(left_alone)


def _when_free(checkout: Checkout) -> Any:
    """What the command came to, once the stage that may have outlived its own has ended."""
    for _ in range(60):
        done = checkout.run(*COMMAND)
        if "another process is running" not in done.stderr:
            break
        time.sleep(2)
    return done
