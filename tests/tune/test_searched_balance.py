"""Claims about searching class weights and sampling: null, words and mappings among the choices of a space."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tune.journal.records import COMPLETE, METHOD
from pipeline.tune.space import SearchSpace, load_space
from pipeline.tune.study.studies import make_studies
from pipeline.tune.table_cells import format_cell, parse_cell

WEIGHTS, SAMPLING = "train.class_weights", "train.sampling"
TEXT = f"""parameters:
  {WEIGHTS}: {{type: categorical, choices: [null, balanced, {{owl: 2.0, cat: 1}}]}}
  {SAMPLING}: {{type: categorical, choices: [shuffle, balanced]}}
controls: {{baseline: {{{WEIGHTS}: null}}}}
"""
CHOICES = list(itertools.product([None, "balanced", {"owl": 2.0, "cat": 1}], ["shuffle", "balanced"]))


def load(folder: Path, text: str = TEXT) -> SearchSpace:
    path = folder / "space.yaml"
    path.write_text(text)
    return load_space(path, Params(), shown_as="space.yaml")


def test_every_value_comes_back_from_the_sampler_the_journal_and_a_table(tmp_path: Path) -> None:
    space = load(tmp_path)
    assert space.size() == 6
    seen = []
    for shares in itertools.product((0.1, 0.5, 0.9), (0.1, 0.9)):
        proposed = space.value_at(shares)
        values = space.decode(proposed)
        train = Params().with_values(values, where="the space").train
        seen.append((train.class_weights, train.sampling))
        assert space.encode(values) == space.encode(json.loads(json.dumps(values))) == proposed
        assert space.values_outside(values) == []
        for path, dimension in space.dimensions.items():
            assert parse_cell(str(format_cell(values[path], dimension)), dimension) == values[path]
    assert seen == CHOICES


@pytest.mark.parametrize("start", ["recipe", "sobol"])
@pytest.mark.parametrize("name", ["local_gp", "tpe", "gp", "random", "grid", "sobol"])
def test_every_sampler_proposes_all_of_it(name: str, start: str, tmp_path: Path) -> None:
    space = load(tmp_path)
    given = {"search.sampler.name": name, "search.sampler.start": start, "search.sampler.startup_trials": 2}
    study = make_studies(Params().with_values(given, where="the test"), space, "f" * 64)[METHOD].adapter
    found = []
    for count in range(6):
        number, values = study.ask()
        found.append((values[WEIGHTS], values[SAMPLING]))
        study.report(number, 1, 0.5 + 0.01 * count)
        study.tell(number, COMPLETE, 0.5 + 0.01 * count, constraints={})
    assert sorted(map(str, found)) == sorted(map(str, CHOICES))


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("owl: 2.0", "owl: -2.0", 'train.class_weights: given {"owl": -2.0, "cat": 1}; allowed: '),
        ("owl: 2.0", "3: 2.0", 'train.class_weights: given {3: 2.0, "cat": 1}; allowed: '),
        ("[shuffle, balanced]", "[shuffle, even]", "train.sampling: given 'even'; allowed: one of shuffle, balanced"),
    ],
)
def test_choice_that_is_none_is_told(right: str, wrong: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path, TEXT.replace(right, wrong))
    assert str(refused.value).startswith(f"space.yaml: {said}")


def test_range_of_class_weights_is_told(tmp_path: Path) -> None:
    text = f"parameters: {{{WEIGHTS}: {{type: float, low: 1.0, high: 9.0}}}}\ncontrols: {{baseline: {{}}}}\n"
    with pytest.raises(
        UserError, match=r"^space\.yaml: train\.class_weights: given 1\.0; allowed: balanced or null or"
    ):
        load(tmp_path, text)


def test_prior_can_be_given_for_them(tmp_path: Path) -> None:
    prior: Any = "choices: [shuffle, balanced], prior: {probabilities: {balanced: 0.75, shuffle: 0.25}}"
    space = load(tmp_path, TEXT.replace("choices: [shuffle, balanced]", prior))
    assert space.dimensions[SAMPLING]["prior"] == {"probabilities": {"balanced": 0.75, "shuffle": 0.25}}
