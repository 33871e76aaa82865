"""Claims about a probe that cannot be had: it is refused in a sentence before anything trains."""

from typing import Any

import pytest

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.preflight.validate import check_probe, describe_probe_plan
from pipeline.tune.space import SearchSpace

SOURCE, WEIGHT = "regularizer.guided_transfer.source", "regularizer.guided_transfer.weight"
PLAIN = SearchSpace("space.yaml", {}, {"baseline": {}})
GUIDED = SearchSpace("space.yaml", {WEIGHT: {"type": "float", "low": 0.1, "high": 1.0}}, {"baseline": {WEIGHT: 0.0}})


def asked(**settings: Any) -> Params:
    values = {"evaluate.probe": True} | {name.replace("__", "."): value for name, value in settings.items()}
    return Params().with_values(values, where="test")


def refused(params: Params, space: SearchSpace = PLAIN) -> str:
    with pytest.raises(UserError) as said:
        check_probe(params, space)
    return str(said.value)


def test_probe_without_pretrained_weights_is_refused_with_what_to_do() -> None:
    assert refused(asked()) == (
        "params.yaml: evaluate.probe: given true, but there are no pretrained weights whose features it could read: "
        "model.pretrained and regularizer.guided_transfer.source are null. Name weights in one of them, or set "
        "evaluate.probe to false."
    )
    check_probe(Params(), PLAIN)
    check_probe(asked(model__pretrained="mine.pt"), PLAIN)


def test_source_must_guide_a_configuration() -> None:
    of_source = asked(**{SOURCE.replace(".", "__"): "mine.pt"})
    assert "guides no configuration of space.yaml" in refused(of_source)
    check_probe(of_source, GUIDED)
    check_probe(of_source.with_values({"regularizer.guided_transfer.watch": True}, where="test"), PLAIN)
    check_probe(of_source.with_values({"model.pretrained": "mine.pt"}, where="test"), PLAIN)


def test_probe_with_folds_is_refused() -> None:
    said = refused(asked(model__pretrained="mine.pt", evaluate__folds=5))
    assert said.startswith(
        "params.yaml: evaluate.probe: given true, with evaluate.folds: 5; the probe is tested on one"
    )


def test_plan_says_what_is_probed() -> None:
    assert describe_probe_plan(Params()) == {}
    assert "frozen features of mine.pt" in describe_probe_plan(asked(model__pretrained="mine.pt"))["probe"]
