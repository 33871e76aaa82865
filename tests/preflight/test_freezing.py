"""Claims about what `sar-search check` says of freezing, and refuses: for every configuration that a space has."""

from typing import Any

import pytest
from support.small_networks import SMALL, network

from pipeline.config import Params
from pipeline.data.sources.image_source import Preview
from pipeline.errors import UserError
from pipeline.preflight.dry_run import check_networks, check_regularizers, describe_freezing
from pipeline.tune.space import SearchSpace

DIGITS = Preview(images=1797, classes=tuple("0123456789"), channels=1)
LAYERS = "regularizer.spatial_entropy.layers"
SAR = "regularizer.spatial_entropy"
NO_GRADIENT = "reads only parts that model.freeze freezes, so it has no gradient"


def setting(**values: Any) -> Params:
    changes = {"model.kwargs": SMALL} | {name.replace("__", "."): value for name, value in values.items()}
    return Params().with_values(changes, where="test")


def tried(params: Params, dimensions: dict[str, Any] | None = None, controls: dict[str, Any] | None = None) -> Any:
    return check_networks(params, SearchSpace("space.yaml", dimensions or {}, controls or {}), DIGITS, "cpu")


def choices(*values: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


def checked(params: Params, dimensions: dict[str, Any], controls: dict[str, Any] | None = None) -> None:
    tried(params, dimensions, controls)
    check_regularizers(params, SearchSpace("space.yaml", dimensions, controls or {}), DIGITS)


def test_weights_that_are_trained_are_told_apart_from_those_that_are_frozen() -> None:
    whole, part, head = (tried(setting(model__freeze=frozen)) for frozen in (0, 2, "all"))
    assert whole.num_trained == whole.num_parameters == part.num_parameters == head.num_parameters
    assert head.num_trained == 10 * 17
    block = sum(each.numel() for each in network().blocks[0].parameters())
    assert part.num_trained == block + 2 * 16 + 10 * 17


def test_memory_is_asked_of_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tried(setting()).num_parameters
    monkeypatch.setattr("os.sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else 5 * weights)
    with pytest.raises(UserError, match="weights take"):
        tried(setting())
    tried(setting(model__freeze="all"))


@pytest.mark.parametrize("asks", ["params.yaml", "space.yaml: controls.deep", "space.yaml"])
def test_more_frozen_blocks_than_there_are_are_refused_wherever_they_are_asked_for(asks: str) -> None:
    said = rf"^{asks}: model\.freeze: 4 blocks cannot be frozen in a network of 3; take 0 to 3, or all$"
    dimensions = {"model.freeze": choices(0, 4)} if asks == "space.yaml" else {}
    controls = {"deep": {"model.freeze": 4}} if "controls" in asks else {}
    with pytest.raises(UserError, match=said):
        tried(setting(**({"model__freeze": 4} if asks == "params.yaml" else {})), dimensions, controls)
    with pytest.raises(UserError, match=said.replace("4 blocks", "5 blocks").replace(asks, "space.yaml")):
        tried(setting(), {"model.freeze": {"type": "int", "low": 0, "high": 5}})


def test_method_all_of_whose_blocks_are_frozen_is_refused_in_every_configuration_of_the_space() -> None:
    """Also where the choice that is frozen stands neither first nor last."""
    deeper = {"model.kwargs": choices(SMALL, SMALL | {"depth": 4})}
    early = {LAYERS: choices([0, 1], "last"), f"{SAR}.weight": {"type": "float", "low": 0.0, "high": 1.0}}
    checked(setting(), early | deeper | {"model.freeze": choices(0, 1)})
    for dimensions in (
        early | {"model.freeze": choices(0, 2, 1)},
        early | deeper | {"model.freeze": choices(0, 2, 1)},
        early | {"model.freeze": {"type": "int", "low": 0, "high": 2}},
    ):
        with pytest.raises(UserError) as refused:
            checked(setting(), dimensions)
        assert str(refused.value) == (
            f"space.yaml: {LAYERS}: [0, 1] are blocks [0, 1] of 3; the method {NO_GRADIENT}; freeze fewer blocks, let it "
            "read later ones, or set its weight to 0 (model.freeze: 2)."
        )
    with pytest.raises(UserError, match=rf"{LAYERS}: 'last' are blocks \[2\] of 3.*model\.freeze: all"):
        checked(setting(), {f"{SAR}.weight": early[f"{SAR}.weight"], "model.freeze": choices(0, "all")})
    # Of a network of three blocks all are frozen, of one of four the last is not.
    with pytest.raises(UserError, match=rf"{LAYERS}: 'last' are blocks \[2\] of 3"):
        checked(setting(model__freeze=3), deeper | {LAYERS: choices("last", "last_two"), f"{SAR}.weight": early[f"{SAR}.weight"]})  # fmt: skip


def test_method_of_frozen_blocks_is_refused_in_params_and_in_controls_and_watched_at_no_weight() -> None:
    on = {f"{SAR}.weight": 0.1}
    lr = {"train.lr": {"type": "float", "low": 0.1, "high": 1.0}}
    checked(setting(model__freeze="all"), lr)  # whose maps are watched
    with pytest.raises(UserError, match=rf"^space\.yaml: {LAYERS}: 'last' .*model\.freeze: all"):
        checked(setting(model__freeze="all").with_values(on, where="test"), lr)
    with pytest.raises(UserError, match=rf"^space\.yaml: controls\.on: {SAR}: {NO_GRADIENT}"):
        checked(setting(model__freeze="all"), lr, {"on": on})
    checked(setting(model__freeze="all"), lr, {"on": on | {"model.freeze": 2}})


def test_method_of_the_final_tokens_is_refused_where_they_are_frozen() -> None:
    weight = {"regularizer.relative_localisation.weight": {"type": "float", "low": 0.0, "high": 1.0}}
    checked(setting(), weight | {"model.freeze": choices(0, 2, 3)})
    with pytest.raises(UserError, match=rf"^space\.yaml: regularizer\.relative_localisation: {NO_GRADIENT}"):
        checked(setting(), weight | {"model.freeze": choices(0, "all", 2)})


def test_prior_that_is_fresh_and_frozen_is_refused() -> None:
    said = r"^params\.yaml: model\.spatial_prior: model\.freeze 2 keeps it at its initial values, which have no effect"
    with pytest.raises(UserError, match=said):
        tried(setting(model__spatial_prior__blocks=2, model__freeze=2))
    tried(setting(model__spatial_prior__blocks=3, model__freeze=2))
    tried(setting(model__spatial_prior__blocks=2, model__freeze=2, model__spatial_prior__positional_conv=True))


def test_what_is_trained_is_told_and_that_frozen_weights_are_random() -> None:
    space = SearchSpace("space.yaml", {"model.freeze": choices(0, "all")}, {"baseline": {}})
    found = describe_freezing(setting(model__freeze="all"), space, tried(setting(model__freeze="all")))
    count = tried(setting()).num_parameters
    random = "model.freeze without model.pretrained keeps random weights, on which the rest is then trained"
    assert found == (f"model.freeze: all, so 170 of {count:,} parameters are trained", random)
    assert describe_freezing(setting(), space, tried(setting())) == (random,)
    pretrained = setting(model__pretrained="mine.pt", model__freeze=1)
    assert len(describe_freezing(pretrained, space, tried(setting(model__freeze=1)))) == 1
    none = SearchSpace("space.yaml", {}, {"baseline": {}})
    assert describe_freezing(setting(), none, tried(setting())) == ()
