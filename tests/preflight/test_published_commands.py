"""The commands in docs/results/on-a-gpu.md, which nobody has run: their parameters, spaces and networks are valid."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from pipeline.config import Params, load_params
from pipeline.data.sources.image_source import Preview
from pipeline.inputs.source import preview_source
from pipeline.preflight.dry_run import check_networks, check_regularizers
from pipeline.preflight.run_resources import trial_resources
from pipeline.preflight.search_budget import check_budget_epochs, check_checkpoints, check_grace_period
from pipeline.preflight.validate import check_mixing, check_rates, check_shares, check_splits
from pipeline.tune.space import SearchSpace, load_space
from pipeline.tune.study.samplers import check_sampler
from pipeline.tune.study.warm_start import check_points
from pipeline.workspace import Workspace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results" / "on-a-gpu.md").read_text(encoding="utf-8")
SHARED, *COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RUN = 'dvc() { printf "%s\\n" "$@" END >> overrides; }\n'
"""In place of DVC: it notes what it is asked."""

WEIGHTS_OF_TIMM: Mapping[str, Any] = {"model.pretrained": None, "regularizer.guided_transfer.source": None}
"""Tests fetch no weights, so the networks begin from fresh ones."""


def overrides(block: str, folder: Path) -> list[list[str]]:
    """Runs a block in bash, in a copy of the checkout's parameters, and returns the values of each `dvc exp run`."""
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "search_spaces", folder / "search_spaces")
    script = RUN + SHARED + block
    subprocess.run(["bash", "-euc", script], cwd=folder, check=True, env={"PATH": os.environ["PATH"]}, timeout=60)
    runs = [run.split() for run in (folder / "overrides").read_text().split("END\n") if run]
    assert all(run[:2] == ["exp", "run"] and set(run[2::2]) == {"-S"} for run in runs)
    return [run[3::2] for run in runs]


def parsed(values: list[str], folder: Path) -> tuple[Params, SearchSpace]:
    """Writes values into params.yaml as `dvc exp run -S` does, and reads them with their space."""
    apply_overrides(folder / "params.yaml", values)
    params = load_params(folder / "params.yaml")
    return params, load_space(folder / params.search.space, params, shown_as=params.search.space)


def previewed(params: Params, folder: Path) -> Preview:
    """What is known of a set that is not on this machine; another one stands for those that must be brought by hand."""
    if not params.prepare.download:
        params = params.with_values({"prepare.dataset": "food101", "prepare.download": True}, where="the test")
    return preview_source(Workspace(folder, folder), params)


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_command_can_be_run(number: int, tmp_path: Path) -> None:
    for values in overrides(COMMANDS[number], tmp_path):
        params, space = parsed(values, tmp_path)
        assert params.retrain.control in space.controls
        check_grace_period(params, space)
        check_budget_epochs(params, space)
        check_sampler(params, space)
        check_points(params, space)
        assert ("published" in params.search.points) == (params.search.trials == 1)
        check_rates(params, space)
        check_mixing(params, space)
        check_shares(params, space)
        check_splits(params)
        check_checkpoints(params, space, trial_resources(params))
        fresh = params.with_values(WEIGHTS_OF_TIMM, where="the test")
        source = previewed(params, tmp_path)
        check_networks(fresh, space, source, "cpu")
        if params.regularizer.guided_transfer.source is None:
            check_regularizers(fresh, space, source)


def test_page_has_a_command_for_each_claim() -> None:
    assert len(COMMANDS) == len(re.findall(r"^## ", PAGE, re.MULTILINE)) - 2
