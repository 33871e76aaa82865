"""The recipes in docs/recipes.md can be used as they stand there, and are what they are said to be."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from pipeline.config import Params, load_params, parameters
from pipeline.config.yaml import parse_yaml
from pipeline.tune.space import load_space

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE | re.DOTALL)
FRAGMENTS = [text for kind, text in BLOCKS if kind == "yaml"]
COMMANDS = [text for kind, text in BLOCKS if not kind]


def changed(fragment: str) -> Params:
    """params.yaml with the values of a fragment."""
    values = {
        f"{section}.{name}": value
        for section, fields in parse_yaml(fragment, "docs").items()
        for name, value in fields.items()
    }
    return load_params(ROOT / "params.yaml").with_values(values, where="docs/recipes.md")


def test_there_are_four_recipes_each_with_its_command() -> None:
    assert (len(FRAGMENTS), len(COMMANDS)) == (4, 4)


@pytest.mark.parametrize("number", range(4))
def test_fragment_is_valid_and_its_command_says_the_same(number: int, tmp_path: Path) -> None:
    (tmp_path / "fragment.yaml").write_text(FRAGMENTS[number])
    load_params(tmp_path / "fragment.yaml")
    words = shlex.split(COMMANDS[number].replace("\\\n", " "))
    assert words[:3] == ["dvc", "exp", "run"]
    assert set(words[3::2]) == {"-S"}
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", words[4::2])
    assert load_params(tmp_path / "params.yaml") == changed(FRAGMENTS[number])
    assert changed(FRAGMENTS[number]).train != Params().train


def test_deits_recipe_is_the_published_one() -> None:
    train = changed(FRAGMENTS[0]).train
    assert train.lr == pytest.approx(5e-4 * train.batch_size / 512)
    published: dict[str, Any] = {"weight_decay": 0.05, "warmup_epochs": 5, "warmup_lr": 1e-6, "min_lr": 1e-5}
    published |= {"mixup": 0.8, "cutmix": 1.0, "mixup_switch": 0.5, "mixup_prob": 1.0, "label_smoothing": 0.1}
    published |= {"augment": "deit", "erasing": 0.25, "optimizer": "adamw", "scheduler": "cosine", "epochs": 100}
    assert {name: getattr(train, name) for name in published} == published
    model = changed(FRAGMENTS[0]).model
    assert (model.name, model.drop_path) == ("vit_small_patch16_224", 0.1)


def test_recipes_for_pretrained_weights_go_with_their_spaces() -> None:
    tuned, probe = map(changed, FRAGMENTS[2:])
    assert (tuned.model.freeze, probe.model.freeze) == (0, "all")
    assert tuned.model.pretrained == probe.model.pretrained
    assert str(tuned.model.pretrained).startswith(tuned.model.name)
    for params in (tuned, probe):
        space = load_space(ROOT / params.search.space, params, shown_as=params.search.space)
        lr = space.dimensions["train.lr"]
        assert lr["low"] < params.train.lr < lr["high"]
        assert not (params.model.freeze == "all" and any(path.startswith("regularizer.") for path in space.dimensions))


def test_every_option_is_off_where_nothing_is_said() -> None:
    off = {"warmup_lr": None, "mixup": 0.0, "cutmix": 0.0, "augment": "none", "erasing": 0.0, "ema_decay": 0.0}
    off |= {"layer_decay": 1.0, "classifier_lr_scale": 1.0}
    off |= {"precision": "float32", "grad_checkpointing": False, "optimizer": "adamw", "scheduler": "cosine"}
    for params in (Params(), load_params(ROOT / "params.yaml")):
        assert {name: getattr(params.train, name) for name in off} == off
    assert all(f"train.{name}" in parameters() for name in off)
