"""Claims about a regulariser in a loop of the user's own: docs/library.md, and the term that the pipeline computes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import SMALL, network, pictures
from torch.nn.functional import cross_entropy

from pipeline import regularizers
from pipeline.models.freeze import freeze
from pipeline.regularizers import Attached
from pipeline.train.objective import Objective

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
LABELS = torch.tensor([0, 1, 2, 0])
MASKS = torch.arange(4 * 144).reshape(4, 12, 12).remainder(3).eq(0).float()

METHODS: dict[str, dict[str, Any]] = {
    "SpatialEntropy": {"layers": "all", "threshold": 0.2},
    "TotalVariation": {},
    "HeadDisagreement": {},
    "RelativeLocalisation": {"pairs": 8},
    "MaskSupervision": {},
    "GuidedTransfer": {"source": "another", "load_source": lambda _: network(noise=0.3)},
}


def made(name: str, weight: float = 0.5, schedule: str = "constant") -> Any:
    return getattr(regularizers, name)(weight=weight, schedule=schedule, **METHODS[name])


def hooks(model: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_page_has_every_method_that_the_package_exports() -> None:
    exported = {getattr(regularizers, name) for name in regularizers.__all__}
    methods = {
        each.__name__ for each in exported if isinstance(each, type) and issubclass(each, regularizers.Regularizer)
    }
    assert methods - {"Regularizer"} == METHODS.keys()
    assert all(f"`{name}`" in PAGE for name in METHODS)


def test_lines_of_the_page_train_a_network() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for line in code.splitlines() if line and not re.match(r"import |from ", line)]
    assert len(lines) == 10
    torch.manual_seed(0)
    loader = [(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))]
    names: dict[str, Any] = {"loader": loader}
    for there, instead in (
        ("epochs = 100", "epochs = 20"),
        ("range(epochs)", "range(2)"),
        ('"vit_small_patch16_224"', '"vit_tiny_patch16_224", img_size=64, depth=2'),
    ):
        assert code.count(there) == 1
        code = code.replace(there, instead)
    exec(code, names)
    # Of 20 epochs the second one has the whole weight.
    assert names["sar"].method.weight_at(1, 20) == 0.01
    assert names["loss"].isfinite()
    names["model"](loader[0][0])
    assert names["sar"].term(1).item() > 0


@pytest.mark.parametrize("name", METHODS)
def test_term_is_what_the_pipeline_adds(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        images = pictures().double()
        theirs, ours = network().double().train(), network().double().train()
        with Objective(theirs, {"method": made(name)}, planned_epochs=3) as objective:
            torch.manual_seed(5)
            expected = objective.step(images, LABELS, 1, MASKS.double()).total
            expected.backward()  # type: ignore[no-untyped-call, unused-ignore]
            with Attached(made(name), ours, epochs=3) as attached:
                attached.method.load_state_dict(objective.trainable["method"].state_dict())
                torch.manual_seed(5)
                loss = cross_entropy(ours(images), LABELS)
                alone = loss.item()
                loss = loss + attached.term(1, inputs=images, masks=MASKS.double())
                loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
    finally:
        torch.set_default_dtype(torch.float32)
    assert abs(loss.item() - alone) > 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad)


def test_weight_follows_the_schedule_and_0_is_no_term() -> None:
    model = network().train()
    attached = Attached(made("TotalVariation", schedule="warmup_linear"), model, epochs=30)
    terms = []
    for epoch in (0, 2, 16):
        model(pictures())
        terms.append(attached.term(epoch))
    assert terms[0].item() == 0
    assert not terms[0].requires_grad
    assert terms[2].item() == pytest.approx(terms[1].item() * 14 / 27, rel=1e-6)
    with pytest.raises(ValueError, match="epoch 30 is outside the 30 planned epochs"):
        attached.term(30)


def test_monitors_can_be_read_on_images_that_are_not_trained_on() -> None:
    model = network()
    with Attached(made("SpatialEntropy"), model, epochs=3) as attached, torch.no_grad():
        model(pictures())
        output = attached.measure()
    assert output.monitors.keys() == {"value", "empty_share"}
    assert not output.loss.requires_grad


def test_term_needs_a_pass_of_its_own() -> None:
    model = network().train()
    attached = Attached(made("SpatialEntropy"), model, epochs=3)
    with pytest.raises(RuntimeError, match="run the network first"):
        attached.term(1)
    model(pictures())
    attached.term(1)
    with pytest.raises(RuntimeError, match="run the network first"):
        attached.term(1)


def test_network_is_as_before_once_closed_or_refused() -> None:
    model = network()
    before = hooks(model)
    with Attached(made("SpatialEntropy"), model, epochs=3):
        assert hooks(model) > before
    assert hooks(model) == before
    with pytest.raises(ValueError, match="has no CLS token"):
        Attached(
            made("SpatialEntropy"),
            bare := network(kwargs={**SMALL, "class_token": False, "global_pool": "avg"}),
            epochs=3,
        )
    assert hooks(bare) == 0
    freeze(model, "all")
    with pytest.raises(ValueError, match="is frozen, so it would have no gradient"):
        Attached(made("SpatialEntropy"), model, epochs=3)
    assert hooks(model) == before


def test_network_is_compiled_after_attaching() -> None:
    values = []
    for compiled in (False, True):
        model = network().train()
        attached = Attached(made("SpatialEntropy"), model, epochs=3)
        runs = torch.compile(model, backend="aot_eager") if compiled else model
        loss = cross_entropy(runs(pictures()), LABELS) + attached.term(1)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        values.append((loss.item(), model.blocks[0].attn.qkv.weight.grad.norm().item()))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize(("name", "missing"), [("MaskSupervision", "masks"), ("GuidedTransfer", "inputs")])
def test_what_a_method_reads_besides_is_asked_for(name: str, missing: str) -> None:
    model = network()
    attached = Attached(made(name), model, epochs=3)
    model(pictures())
    with pytest.raises(ValueError, match=rf"{name} reads the {missing} of the forward pass; pass {missing}=\.\.\."):
        attached.term(1)
