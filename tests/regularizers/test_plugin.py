"""Claims about a user's own method: one class in a file of theirs, and a plain word for each way in which it can fail."""

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import network, pictures
from torch import nn

import pipeline.regularizers
from pipeline.config import Params
from pipeline.config.yaml import parse_yaml
from pipeline.errors import UserError
from pipeline.models.tap import SimilarityTap
from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.plugin import load_plugin, plugin_source_hash
from pipeline.regularizers.registry import build_regularizers
from pipeline.train.objective import Objective
from pipeline.tune.space import load_space

ROOT = Path(__file__).parents[2]

MINE = """
from torch import nn
from pipeline.regularizers import Features, RequiredFeatures, RegularizerOutput, Regularizer

class Mine(Regularizer):
    def __init__(self, *, weight: float, strength: float = 1.0) -> None:
        super().__init__(weight, RequiredFeatures(similarity="last"), schedule="constant")
        if strength < 0:
            raise ValueError("strength is below 0")
        self.strength = strength

    def forward(self, features: Features) -> RegularizerOutput:
        loss = self.strength * features.similarity.square().mean()
        return RegularizerOutput(loss, {"value": loss.detach()})

class Guided(Mine):
    def __init__(self, *, weight: float, load_source) -> None:
        super().__init__(weight=weight)
        self.network = load_source("a network")

class Forgetful(Regularizer):
    def __init__(self, *, weight: float) -> None:
        nn.Module.__init__(self)
    def forward(self, features): ...

class Unfinished(Regularizer):
    def __init__(self, *, weight: float) -> None:
        super().__init__(weight, RequiredFeatures())

class Network(nn.Module): ...

number = 7
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes modules into a folder that is the current one, and forgets them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def built(spec: str, **changes: Any) -> dict[str, Regularizer]:
    values = {"plugin": spec, "plugin_weight": 0.5, "plugin_watch": True} | changes
    params = Params().with_values({f"regularizer.{name}": value for name, value in values.items()}, where="test")
    config = {"plugin": params.regularizer.configs()["plugin"]}
    return build_regularizers(config, load_source=lambda spec: nn.Linear(1, len(spec)))


def test_class_in_the_current_folder_is_built_with_its_weight_options_schedule_and_watch(write: Any) -> None:
    write("my_methods.py", MINE)
    method = built("my_methods:Mine", plugin_options={"strength": 3.0}, plugin_schedule="warmup_linear")["plugin"]
    assert type(method).__name__ == "Mine"
    assert (method.weight, method.schedule, method.watch) == (0.5, "warmup_linear", True)
    assert method.strength == 3.0


def test_class_in_a_package_is_found_by_its_dotted_path(write: Any) -> None:
    write("my_package/inner/__init__.py", "")
    write("my_package/inner/methods.py", MINE)
    assert load_plugin("my_package.inner.methods:Mine").__name__ == "Mine"


def test_constructor_that_names_load_source_is_given_it(write: Any) -> None:
    write("my_methods.py", MINE)
    assert built("my_methods:Guided")["plugin"].network.out_features == len("a network")


def test_plugin_that_is_off_is_not_even_imported(write: Any) -> None:
    write("my_failing.py", "raise RuntimeError('imported')")
    assert built("my_failing:Mine", plugin_weight=0.0, plugin_watch=False) == {}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("my_methods", r"plugin: given 'my_methods'; needed: my_package\.my_module:MyRegularizer, a subclass of"),
        ("my_methods:", "plugin: given 'my_methods:'; needed: "),
        ("../my_methods:Mine", "plugin: given '../my_methods:Mine'; needed: "),
        ("my_methods.py:Mine", "there is no module "),
        (
            "nowhere_to_be_found:Mine",
            "plugin: nowhere_to_be_found:Mine: there is no module nowhere_to_be_found; put it",
        ),
        ("nowhere_to_be_found.deep:Mine", "there is no module nowhere_to_be_found; put it into "),
        ("my_methods:Nine", "plugin: my_methods:Nine: my_methods has no Nine; it defines Mine, Guided, Forgetful, Unf"),
        ("my_methods:number", "plugin: my_methods:number: is a int; needed: "),
        ("my_methods:Network", "plugin: my_methods:Network: is the class Network; needed: .* subclass of"),
        ("my_methods:Regularizer", "is the class Regularizer; needed: "),
        ("my_methods:Unfinished", "plugin: my_methods:Unfinished: does not define forward, which every"),
        ("my_methods:Forgetful", r"plugin: my_methods:Forgetful: its constructor does not call super\(\)\.__init__"),
        ("my_broken:Mine", "plugin: my_broken:Mine: my_broken cannot be imported: SyntaxError: "),
        ("my_failing:Mine", "plugin: my_failing:Mine: my_failing cannot be imported: ZeroDivisionError: division by"),
        ("my_needy:Mine", "my_needy cannot be imported: ModuleNotFoundError: No module named 'not_installed_here'"),
        ("my_bad_package.inner:Mine", "my_bad_package.inner cannot be imported: ZeroDivisionError"),
        ("my_exit:Mine", r"my_exit cannot be imported: it calls sys\.exit\(3\), which would end the whole run"),
        ("my_quiet_exit:Mine", r"my_quiet_exit cannot be imported: it calls sys\.exit\(\), "),
        ("my_exit_package.inner:Mine", r"my_exit_package.inner cannot be imported: it calls sys\.exit\('why not'\), "),
    ],
)
def test_plugin_that_cannot_be_had_is_told_with_the_reason(write: Any, spec: str, said: str) -> None:
    write("my_methods.py", MINE)
    write("my_broken.py", "class Mine(:\n")
    write("my_failing.py", "1 / 0\n")
    write("my_needy.py", "import not_installed_here\n")
    write("my_bad_package/__init__.py", "1 / 0\n")
    write("my_bad_package/inner.py", MINE)
    write("my_exit.py", "import sys\nsys.exit(3)\n")
    write("my_quiet_exit.py", "raise SystemExit\n")
    write("my_exit_package/__init__.py", "exit_code = 'why not'\nraise SystemExit(exit_code)\n")
    write("my_exit_package/inner.py", MINE)
    with pytest.raises(ValueError, match=said) as refused:
        built(spec)
    assert str(refused.value).startswith("regularizer.plugin: ")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strenght": 1.0}, r"does not take {'strenght': 1\.0}: TypeError: .*unexpected keyword argument 'strenght'"),
        ({"strength": -1.0}, "ValueError: strength is below 0"),
        ({"strength": "high"}, "TypeError: "),
        ({"weight": 2.0}, "TypeError: .*multiple values for keyword argument 'weight'"),
    ],
)
def test_options_that_the_constructor_refuses_are_told(write: Any, options: dict[str, Any], said: str) -> None:
    write("my_methods.py", MINE)
    with pytest.raises(ValueError, match=rf"^regularizer\.plugin_options: my_methods:Mine .*{said}"):
        built("my_methods:Mine", plugin_options=options)


def test_constructor_that_ends_the_process_is_told(write: Any) -> None:
    write("my_leaving.py", MINE.replace("self.strength = strength", "raise SystemExit(2)"))
    with pytest.raises(ValueError, match=r"^regularizer\.plugin_options: my_leaving:Mine .*it calls sys\.exit\(2\)"):
        built("my_leaving:Mine")


def test_hash_is_of_the_source_file_and_changes_with_it(write: Any) -> None:
    path = write("my_methods.py", MINE)
    first = plugin_source_hash("my_methods:Mine")
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(MINE + "# another\n")
    assert plugin_source_hash("my_methods:Mine") != first
    write("my_failing.py", "1 / 0\n")
    assert len(plugin_source_hash("my_failing:Mine")) == 64  # nothing of it was run
    for spec, said in (("nowhere_to_be_found:Mine", "there is no module"), ("sys:Mine", "is in no file")):
        with pytest.raises(ValueError, match=said):
            plugin_source_hash(spec)


def test_options_and_weight_of_a_plugin_can_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "parameters:\n"
        "  regularizer.plugin_weight: {type: float, low: 0.01, high: 1.0, log: true}\n"
        "  regularizer.plugin_options: {type: categorical, choices: [{strength: 1.0}, {strength: 2.0}]}\n"
        "controls: {baseline: {regularizer.plugin_weight: 0.0}}\n"
    )
    space = load_space(path, Params(), shown_as="space.yaml")
    values = {"regularizer.plugin_weight": 0.1, "regularizer.plugin_options": {"strength": 2.0}}
    assert space.decode(space.encode(values)) == values
    path.write_text(path.read_text().replace("{strength: 2.0}", "{strength: [2.0]}"))
    with pytest.raises(UserError, match=r"regularizer\.plugin_options: "):
        load_space(path, Params(), shown_as="space.yaml")


def test_penalty_of_a_plugin_is_what_its_class_says(write: Any) -> None:
    from pipeline.regularizers.base import Features

    write("my_methods.py", MINE)
    method = built("my_methods:Mine", plugin_options={"strength": 3.0})["plugin"]
    maps = torch.full((2, 1, 2, 3, 3), 2.0)
    assert method(Features(similarity=maps)).loss.item() == 12.0


def maps_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with SimilarityTap(model, "last") as tap, torch.no_grad():
        model(images)
    return tap.maps()


def blocks_of_docs() -> list[str]:
    text = (ROOT / "docs" / "methods" / "your-own.md").read_text()
    return re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_example_of_the_docs_with_masks_and_a_source_trains_beside_sar(write: Any) -> None:
    write("my_package/on_object.py", next(block for block in blocks_of_docs() if "class OnTheObject" in block))
    options = {"source": "the source"}
    plugin = {"spec": "my_package.on_object:OnTheObject", "weight": 1.0, "schedule": "constant", "watch": False}
    configs = {
        "plugin": {**plugin, "options": options},
        "spatial_entropy": {"weight": 0.1, "watch": True, "schedule": "constant"},
    }
    methods = build_regularizers(configs, load_source=lambda spec: network(noise=0.3) if spec == "the source" else None)
    model, images = network().train(), pictures()
    masks = torch.zeros(4, 12, 12)
    masks[:, :6] = 1.0
    masks[3] = float("nan")
    with Objective(model, methods, planned_epochs=1) as objective:
        assert objective.needs_masks
        step = objective.step(images, torch.tensor([0, 1, 2, 0]), 0, masks)
        step.total.backward()  # type: ignore[no-untyped-call, unused-ignore]
    ours, source = maps_of(model, images), maps_of(network(noise=0.3), images)
    expected = ((ours - source)[:3, :, :, :3] ** 2).sum() / ours.numel()
    assert step.monitors["plugin/value"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert {"spatial_entropy/value", "plugin/value"} <= step.monitors.keys()
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


def test_example_of_the_docs_runs_as_it_stands_there(write: Any) -> None:
    blocks = blocks_of_docs()
    parameters, code = (next(block for block in blocks if word in block) for word in ("plugin_weight:", "class "))
    given = parse_yaml(parameters, "docs/methods/your-own.md")["regularizer"]
    write("my_package/my_module.py", code)
    method = built(given.pop("plugin"), **given)["plugin"]
    maps = torch.full((2, 1, 2, 3, 3), 1.5)
    assert (method.weight, method.needs.similarity) == (given["plugin_weight"], "last")
    assert method(pipeline.regularizers.Features(similarity=maps)).loss.item() == (1.5 * 2.0) ** 2


def test_face_gives_what_the_modules_have() -> None:
    assert all(hasattr(pipeline.regularizers, name) for name in pipeline.regularizers.__all__)
    assert pipeline.regularizers.Regularizer is Regularizer
