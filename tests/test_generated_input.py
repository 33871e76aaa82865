"""Claims about parameter and space files in general: each is accepted or refused in plain words, whatever it holds.

The files are the repository's own, broken in one place. The examples are the same in every run.
"""

import json
import re
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from support.invalid_configs import (
    PARAMS,
    SPACES,
    Broken,
    of_networks,
    of_params,
    of_spaces,
    values_at_bounds,
    wrong_values,
)

from pipeline.config import Params, load_params
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError
from pipeline.preflight.plan import make_plan
from pipeline.tune.space import load_space
from pipeline.tune.study.prior import Prior
from pipeline.workspace import Workspace

SHOWN_AS = "search_spaces/broken.yaml"
INTERNALS = ("Traceback", "<class", "object at 0x", "errors.pydantic.dev", "ValidationError", "sys.set_int")


def check_refusal(refused: UserError, file: str, at: str | None) -> None:
    message = str(refused)
    lines = message.splitlines()
    assert refused.exit_code == 2
    assert file in message
    at = "model.kwargs" if at and at.startswith("model.kwargs") else at
    assert at is None or at in message or re.search(r"(, line \d+)?: not valid YAML: ", message), message
    assert 1 <= len(lines) <= 12
    assert len(message) < 2000
    assert all(line.isprintable() for line in lines), message
    assert not [word for word in INTERNALS if word in message], message


def fixed(examples: int) -> settings:
    """The same examples everywhere, however slow the machine."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as far as the plan looks at it."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "search_spaces").mkdir()
    for name, text in SPACES.items():
        (folder / "search_spaces" / name).write_text(text)
    (folder / "dvc.yaml").write_text("")
    return folder


@fixed(100)
@given(broken=of_params())
def test_params_file_broken_in_one_place_is_accepted_or_told(folder: Path, broken: Broken) -> None:
    path = folder / "params.yaml"
    path.write_bytes(broken.content)
    try:
        params = load_params(path)
    except UserError as refused:
        check_refusal(refused, "params.yaml", broken.at)
        return
    tree = params.model_dump(by_alias=True)
    assert Params.model_validate(tree) == params
    path.write_text(json.dumps(tree, allow_nan=False))
    assert load_params(path) == params


@pytest.mark.filterwarnings("ignore:The distribution is specified by:UserWarning")  # of a step that does not divide
@fixed(150)
@given(broken=of_spaces())
def test_space_file_broken_in_one_place_is_accepted_or_told(folder: Path, broken: Broken) -> None:
    path = folder / "broken.yaml"
    path.write_bytes(broken.content)
    try:
        space = load_space(path, Params(), shown_as=SHOWN_AS)
    except UserError as refused:
        check_refusal(refused, "broken.yaml", None)
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for values in [
        *space.controls.values(),
        *(space.decode(study.ask(space.distributions()).params) for _ in range(3)),
    ]:
        Params().with_values(values, where="what the space allows is allowed")
    json.dumps(space.content(), allow_nan=False)
    prior, points = Prior(space), np.random.default_rng(0).random((8, len(space.dimensions)))
    assert np.isfinite(prior.log_density(points)).all()
    proposed = [*map(space.value_at, prior.quantile(points)), prior.centers]
    assert [space.values_outside(space.decode(values)) for values in proposed] == [[]] * 9


@fixed(20)
@given(broken=of_networks() | wrong_values(PARAMS) | values_at_bounds())
def test_plan_of_a_broken_params_file_is_made_or_refused_before_work_starts(folder: Path, broken: Broken) -> None:
    (folder / "params.yaml").write_bytes(broken.content)
    try:
        plan = make_plan(Workspace(folder, folder))
    except UserError as refused:
        # A value that is allowed in itself may not go with another, which is then the one that is named.
        check_refusal(refused, "", broken.at if broken.at == "model.kwargs" else None)
    else:
        assert plan.describe()
        assert plan.network.num_parameters > 0


def test_folder_in_the_place_of_a_file_is_told(folder: Path) -> None:
    for load in (load_params, read_yaml, lambda path: load_space(path, Params(), shown_as=SHOWN_AS)):
        with pytest.raises(UserError) as refused:
            load(folder / "search_spaces")
        check_refusal(refused.value, str(folder / "search_spaces"), None)
        assert "cannot be read: a folder, where a file is needed" in str(refused.value)
