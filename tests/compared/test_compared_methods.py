"""The methods of a comparison: names are found as people write them, and all searches vary the same of the recipe."""

import re
from pathlib import Path

import pytest
from copied import ROOT
from ruamel.yaml import YAML

from pipeline.compared.compared_methods import CONTROL, Comparison, read_comparison
from pipeline.compared.compared_plans import plan_searches
from pipeline.config import load_params
from pipeline.errors import UserError
from pipeline.tune.space import load_space
from pipeline.workspace import Workspace

RATE = {"type": "float", "low": 0.0005, "high": 0.008, "log": True}
SAR = {"regularizer.spatial_entropy.weight": {"type": "float", "low": 0.003, "high": 1.0, "log": True}}
OFF = {"baseline": {"regularizer.spatial_entropy.weight": 0.0}}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "search_spaces").mkdir()
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        (tmp_path / "search_spaces" / path.name).write_text(path.read_text())
    return Workspace(tmp_path, tmp_path)


def read(workspace: Workspace, given: str) -> Comparison:
    return read_comparison(workspace, load_params(workspace.params), given)


def write_space(workspace: Workspace, name: str, parameters: object, controls: object) -> None:
    with (workspace.root / name).open("w") as file:
        YAML().dump({"parameters": parameters, "controls": controls}, file)


def test_where_no_space_varies_the_recipe_the_control_is_the_recipe_with_every_method_off(workspace: Workspace) -> None:
    found = read(workspace, "sar, TV")
    assert [search.name for search in found.searches] == ["sar", "tv"]
    assert found.control is None
    assert found.off == {"regularizer.spatial_entropy.weight": 0.0, "regularizer.total_variation.weight": 0.0}
    assert not any(search.written for search in found.searches)
    assert found.against("baseline") == "baseline, with the recipe of params.yaml (the searches vary none of it)"


@pytest.mark.parametrize("name", ["sp_vit", "spvit", "SP-ViT"])
def test_what_one_space_varies_of_the_recipe_all_do_and_the_control_is_tuned_over_it(
    workspace: Workspace, name: str
) -> None:
    found = read(workspace, f"sar,{name}")
    control, sar, prior = found.searches
    assert (control.name, sar.name, prior.name) == (CONTROL, "sar", "sp_vit")
    assert list(control.space.dimensions) == list(found.recipe) == ["train.lr"]
    assert control.space.controls == {"baseline": found.off}
    assert sar.space.dimensions["train.lr"] == prior.space.dimensions["train.lr"] == RATE
    assert (sar.written, prior.written) == (True, False)
    assert found.added == {"sar": ("train.lr",), "sp_vit": ()}


def test_what_a_control_sets_is_the_methods_own_and_no_control_is_tuned_over_it(workspace: Workspace) -> None:
    assert "model.spatial_prior.blocks" not in read(workspace, "sar_wide,sp_vit").recipe


def test_no_method_runs_with_the_weight_that_another_has_in_params_yaml(workspace: Workspace) -> None:
    text = workspace.params.read_text()
    off = "total_variation: {weight: 0.0"
    assert off in text
    workspace.params.write_text(text.replace(off, "total_variation: {weight: 0.5"))
    found = {search.name: search.params for search in read(workspace, "sar,tv,sp_vit").searches}
    weights = {name: params.regularizer.total_variation.weight for name, params in found.items()}
    assert weights == {CONTROL: 0.0, "sar": 0.0, "tv": 0.5, "sp_vit": 0.0}  # tv's own search sets it in every trial


def set_parameters(workspace: Workspace, **replaced: str) -> None:
    """Replace parameters that are null, or false, in params.yaml, by their last names."""
    text = workspace.params.read_text()
    for name, value in replaced.items():
        text, found = re.subn(rf"\b{name}: (null|false)\b", f"{name}: {value}", text, count=1)
        assert found, name
    workspace.params.write_text(text)


def test_pretrained_weights_are_a_methods_own_where_its_control_has_fresh_ones(workspace: Workspace) -> None:
    set_parameters(workspace, pretrained="mine.pth")
    found = {search.name: search for search in read(workspace, "sar,pretrained,pretrained_sar,sp_vit").searches}
    begun = {name: search.params.model.pretrained for name, search in found.items()}
    assert begun == {CONTROL: None, "sar": None, "pretrained": "mine.pth", "pretrained_sar": "mine.pth", "sp_vit": None}
    assert list(found["sar"].space.dimensions)[-1] == "train.lr"  # the one thing of the recipe that all of them vary
    control = found["sar"].params.with_values(found[CONTROL].space.controls["baseline"], where="test")
    for search in found.values():
        values = {**search.space.controls["baseline"], "model.pretrained": None}
        assert search.params.with_values(values, where="test") == control


@pytest.mark.parametrize(
    ("given", "replaced", "having"),
    [
        ("sar,pretrained", {"pretrained": "mine.pth", "source": "theirs.pth"}, "pretrained"),
        ("gta,pretrained", {"pretrained": "mine.pth", "source": "theirs.pth"}, "pretrained"),
        ("sar,gta,tv", {"source": "theirs.pth"}, "gta"),
        ("sar,tv", {"pretrained": "mine.pth"}, "sar"),
    ],
)
def test_one_method_has_the_probe_and_it_is_one_that_uses_its_weights(
    workspace: Workspace, given: str, replaced: dict[str, str], having: str
) -> None:
    set_parameters(workspace, probe="true", **replaced)
    found = read(workspace, given)
    assert [search.name for search in found.searches if search.params.evaluate.probe] == [having]


def test_a_probe_of_weights_that_no_method_uses_is_refused(workspace: Workspace) -> None:
    set_parameters(workspace, probe="true")
    with pytest.raises(UserError, match=r"evaluate\.probe: given true, but there are no pretrained weights"):
        read(workspace, "sar,tv")
    set_parameters(workspace, source="theirs.pth")
    with pytest.raises(UserError, match=r"evaluate\.probe: given true, but .* guides no configuration"):
        read(workspace, "sar,tv")


def test_a_written_search_reads_back_as_the_same_space_and_parameters(workspace: Workspace, tmp_path: Path) -> None:
    asked = load_params(workspace.params)
    for search in read(workspace, "tv,sp_vit").searches:
        own = search.write(workspace, workspace.comparison)
        params = load_params(own.params)
        space = load_space(workspace.root / params.search.space, params, shown_as="space")
        assert space.content() == search.space.content()
        assert own.results == own.own == tmp_path / "results" / "compare" / search.name
        assert own.models == own.results / "models"
        assert params.train == asked.train
        assert params.search.budget == asked.search.budget
    assert [each.results.name for each in workspace.compared()] == ["sp_vit", CONTROL, "tv"]
    assert load_params(workspace.params) == asked


def test_a_space_of_the_recipe_alone_is_a_method_if_its_control_turns_something_off(workspace: Workspace) -> None:
    write_space(workspace, "no_skip.yaml", {"train.lr": RATE}, {"baseline": {"model.last_block": "standard"}})
    with pytest.raises(UserError, match=r"no_skip\.yaml varies only parameters of the recipe"):
        read(workspace, "sar,no_skip.yaml")  # params.yaml has the control's value too
    text = workspace.params.read_text()
    assert "last_block: standard" in text
    workspace.params.write_text(text.replace("last_block: standard", "last_block: no_skip"))
    found = {search.name: search.params.model.last_block for search in read(workspace, "sar,no_skip.yaml").searches}
    assert found == {CONTROL: "standard", "sar": "standard", "no_skip": "no_skip"}


def test_a_file_of_the_users_own_is_a_method_by_its_name(workspace: Workspace) -> None:
    write_space(workspace, "mine.yaml", SAR, OFF)
    (method,) = read(workspace, "mine.yaml").methods
    assert (method.name, method.file) == ("mine", "mine.yaml")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sar,nosuch", "--run: no method nosuch; there are baseline, cutmix, drloc"),
        ("sar,there/is/none.yaml", "--run: no file there/is/none.yaml"),
        ("", "--run: names of search spaces"),
        ("sar,", "--run: names of search spaces"),
        ("sar,SAR", "--run: sar is given twice"),
        ("sar,search_spaces/sar.yaml", "--run: sar is given twice"),
        ("sar,baseline", "search_spaces/baseline.yaml varies only parameters of the recipe (train.lr"),
        ("sar,sar_wide", "--run: sar and sar_wide are the same search"),
        ("sar,faster.yaml", "parameters: train.lr is"),
        ("sar,other.yaml", "retrain.control: given 'baseline'; the controls of other.yaml: plain"),
        (
            "tv,set.yaml",
            "controls.baseline: regularizer.total_variation.weight is 0.0 in search_spaces/tv.yaml and 0.1",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(workspace: Workspace, given: str, said: str) -> None:
    write_space(workspace, "faster.yaml", {**SAR, "train.lr": {**RATE, "high": 0.01}}, OFF)
    write_space(workspace, "other.yaml", SAR, {"plain": OFF["baseline"]})
    write_space(
        workspace, "set.yaml", SAR, {"baseline": {**OFF["baseline"], "regularizer.total_variation.weight": 0.1}}
    )
    if "faster" in given:
        given += ",sp_vit"
    with pytest.raises(UserError) as told:
        read(workspace, given)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_what_is_wrong_is_said_of_the_file_that_the_user_knows(workspace: Workspace, tmp_path: Path) -> None:
    found = read(workspace, "gta,sp_vit")
    assert found.methods[0].written  # since it varies what SP-ViT's space does
    with pytest.raises(
        UserError, match=r"^gta: search_spaces/gta\.yaml: regularizer\.guided_transfer\.source: is null"
    ):
        plan_searches(workspace, Comparison(found.methods, None, (), {}, {}), tmp_path / "results" / "compare")


def test_how_often_batches_are_mixed_is_cutmix_own_and_no_recipe(workspace: Workspace) -> None:
    found = read(workspace, "sar,cutmix")
    assert [search.name for search in found.searches] == ["sar", "cutmix"]
    assert found.recipe == ()
