"""Claims about guided transfer: the equation against loops, and a source that is only looked through."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.small_networks import SWIN
from torch import Tensor, nn

from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.regularizers.base import Features, RegularizerOutput
from pipeline.regularizers.features import Collector
from pipeline.regularizers.guided_transfer import GuidedTransfer, guided_transfer


def network(seed: int = 0, *, image: tuple[int, int] = (8, 8), channels: int = 1, **kwargs: Any) -> nn.Module:
    torch.manual_seed(seed)
    given = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2} | kwargs
    config = ModelConfig("vit_tiny_patch16_224", given, "xavier", 0.3)
    return build_model(config, num_classes=3, image_size=image, channels=channels)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def slow(target: np.ndarray, source: np.ndarray, reduction: str) -> float:
    images, layers, heads, positions = target.shape
    total = 0.0
    for b in range(images):
        for layer in range(layers):
            for a in range(heads):
                squares = [(target[b, layer, a, n] - source[b, layer, a, n]) ** 2 for n in range(positions)]
                total += sum(squares) / (positions if reduction == "mean" else 1)
    return total / (images * layers * heads)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(3, 2, 4, 9), (1, 1, 1, 1), (2, 3, 1, 5)])
def test_value_and_gradient_are_those_of_the_loops(shape: tuple[int, ...], reduction: str) -> None:
    target, source = rows(*shape).requires_grad_(), rows(*shape, seed=1).requires_grad_()
    loss = guided_transfer(target, source, reduction=reduction)
    assert loss.item() == pytest.approx(slow(target.detach().numpy(), source.detach().numpy(), reduction), rel=1e-12)
    loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
    count = math.prod(shape[:3]) * (shape[3] if reduction == "mean" else 1)
    torch.testing.assert_close(target.grad, 2 * (target - source).detach() / count, rtol=0, atol=1e-12)
    assert source.grad is None


def test_gradient_passes_a_numerical_check() -> None:
    source = rows(2, 1, 2, 5, seed=1)
    assert torch.autograd.gradcheck(lambda leaf: guided_transfer(leaf, source), rows(2, 1, 2, 5).requires_grad_())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_entry_that_is_not_finite_spoils_the_loss(bad: float) -> None:
    target = rows(1, 1, 1, 4)
    target[0, 0, 0, 0] = bad
    assert not guided_transfer(target, rows(1, 1, 1, 4)).isfinite()


def test_equal_rows_differ_by_nothing() -> None:
    assert guided_transfer(torch.ones(2, 1, 2, 9), torch.ones(2, 1, 2, 9)).item() == 0.0


def test_half_precision_is_computed_in_float32() -> None:
    target, source = (300 * rows(2, 1, 2, 9)).half(), (300 * rows(2, 1, 2, 9, seed=1)).half()
    loss = guided_transfer(target, source)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, guided_transfer(target.float(), source.float()))


def method(source: nn.Module | None, **options: Any) -> GuidedTransfer:
    def load(spec: str) -> nn.Module:
        assert spec == "the/source"
        assert source is not None
        return source

    return GuidedTransfer(weight=1.0, source="the/source", load_source=load, **options)


def answer(guided: GuidedTransfer, target: nn.Module, images: Tensor) -> RegularizerOutput:
    collector = Collector(target, guided.needs)
    target(images)
    penalty: RegularizerOutput = guided(collector.features(images))
    collector.remove()
    return penalty


def logits(model: nn.Module, images: Tensor, block: int) -> Tensor:
    """The CLS row of a block before softmax, CLS first: from its qkv weights, by hand."""
    seen: list[Tensor] = []
    attention = model.get_submodule(f"blocks.{block}.attn")
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model(images)
    handle.remove()
    qkv = attention.get_submodule("qkv")
    with torch.no_grad():
        q, k, _ = qkv(seen[0]).chunk(3, dim=-1)
    heads = q.shape[-1] // 2
    found = [q[:, :1, part] @ k[:, :, part].mT / math.sqrt(heads) for part in (slice(heads), slice(heads, None))]
    return torch.cat(found, dim=1)


IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("with_cls", [False, True])
@pytest.mark.parametrize(("layers", "blocks"), [("all", [0, 1]), ("last", [1]), ((0,), [0])])
def test_loss_compares_the_rows_of_the_same_blocks_on_the_same_images(
    layers: Any, blocks: list[int], with_cls: bool
) -> None:
    target, source, images = network(0).double().eval(), network(1).double(), IMAGES.double()
    guided = method(source, layers=layers, with_cls=with_cls)
    guided.prepare(target, inputs_shape=(1, 8, 8))
    penalty = answer(guided, target, images)
    ours, theirs = (torch.stack([logits(net, images, block) for block in blocks], dim=1) for net in (target, source))
    first = 0 if with_cls else 1
    expected = slow(ours[..., first:].numpy(), theirs[..., first:].numpy(), "mean")
    assert penalty.loss.item() == pytest.approx(expected, rel=1e-12)
    assert penalty.monitors["value"] == penalty.loss.detach()


def test_target_that_is_its_source_has_no_loss() -> None:
    target = network(0).eval()
    guided = method(network(0), with_cls=True)
    guided.prepare(target, inputs_shape=(1, 8, 8))
    assert answer(guided, target, IMAGES).loss.item() == 0.0


def test_gradient_goes_into_the_target_and_never_into_the_source() -> None:
    target, source = network(0), network(1)
    guided = method(source, with_cls=True)
    guided.prepare(target, inputs_shape=(1, 8, 8))
    answer(guided, target, IMAGES).loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
    slope = target.get_parameter("blocks.1.attn.qkv.weight").grad
    assert slope is not None
    assert slope.abs().max() > 0
    assert all(weight.grad is None and not weight.requires_grad for weight in source.parameters())


def test_source_is_in_evaluation_mode_and_nobodys_to_train_or_save() -> None:
    target, source = network(0), network(1).train()
    guided = method(source)
    guided.prepare(target, inputs_shape=(1, 8, 8))
    guided.train()
    assert not source.training
    assert list(guided.parameters()) == []
    assert guided.state_dict() == {}
    assert list(guided.modules()) == [guided]
    # Its drop path would otherwise give other rows each time.
    assert torch.equal(answer(guided, target.eval(), IMAGES).loss, answer(guided, target, IMAGES).loss)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"image": (12, 12)}, "has 6 x 6 grid of patches, but the network that is trained has 4 x 4"),
        ({"num_heads": 4}, "has 4 heads, but the network that is trained has 2"),
        ({"depth": 3}, "has 3 blocks compared, but the network that is trained has 2"),
        ({"channels": 3}, r"takes images of 3 x 8 x 8 \(channels, height, width\), but these are 1 x 8 x 8"),
        ({"patch_size": 4, "image": (16, 16)}, "takes images of 1 x 16 x 16 .*, but these are 1 x 8 x 8"),
        ({"class_token": False, "global_pool": "avg"}, "has no CLS token"),
    ],
)
def test_source_that_cannot_be_compared_is_refused_with_both_sides(source: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"source: the/source.*{said}"):
        method(network(1, **source)).prepare(network(0), inputs_shape=(1, 8, 8))


def test_sources_of_other_depth_and_width_can_guide_the_last_block() -> None:
    target = network(0).eval()
    guided = method(network(1, depth=3, embed_dim=32), layers="last")
    guided.prepare(target, inputs_shape=(1, 8, 8))
    assert answer(guided, target, IMAGES).loss > 0


def test_network_that_is_no_plain_transformer_is_refused() -> None:
    for target, source, whose in (
        (nn.Linear(2, 2), network(1), ""),
        (network(0), nn.Linear(2, 2), "source: the/source: "),
    ):
        with pytest.raises(
            ValueError, match=f"^{whose}Linear is no Vision Transformer; guided transfer .*: take a ViT"
        ):
            method(source).prepare(target, inputs_shape=(1, 8, 8))


def test_target_without_a_cls_token_is_refused_with_what_would_work() -> None:
    swin = build_model(ModelConfig("swin_tiny_patch4_window7_224", SWIN, "timm", 0.0), num_classes=3, image_size=(24, 24), channels=1)  # fmt: skip
    for target in (swin, network(0, class_token=False, global_pool="avg")):
        said = rf"^{type(target).__name__} has no CLS token; guided transfer compares .*: take a ViT or DeiT with one"
        with pytest.raises(ValueError, match=said):
            method(network(1)).prepare(target, inputs_shape=(1, 8, 8))


@pytest.mark.parametrize(("layers", "last"), [("last", 3), ((0, 1), 1), ((0,), 0)])
def test_source_is_run_no_further_than_its_deepest_compared_block(layers: Any, last: int) -> None:
    target, source = network(0, depth=4), network(1, depth=4)
    ran: list[Any] = []
    parts: Any = source
    for number, block in enumerate(parts.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    parts.head.register_forward_pre_hook(lambda *_: ran.append("head"))
    guided = method(source, layers=layers, with_cls=True)
    guided.prepare(target, inputs_shape=(1, 8, 8))
    answer(guided, target, IMAGES)
    assert ran == list(range(last + 1))


def test_source_runs_without_gradients() -> None:
    target, source = network(0), network(1)
    seen: list[bool] = []
    source.get_submodule("blocks.1").register_forward_hook(lambda *given: seen.append(given[-1].requires_grad))
    guided = method(source)
    guided.prepare(target, inputs_shape=(1, 8, 8))
    for weight in source.parameters():
        weight.requires_grad_(True)  # frozen or not, nothing may be kept for a backward pass
    answer(guided, target, IMAGES)
    assert seen == [False]


def test_refused_source_leaves_no_tap_behind() -> None:
    source = network(1, num_heads=4)
    with pytest.raises(ValueError, match="heads"):
        method(source).prepare(network(0), inputs_shape=(1, 8, 8))
    assert not any(module._forward_hooks for module in source.modules())


def test_what_the_method_cannot_do_is_refused() -> None:
    with pytest.raises(
        ValueError, match="source: is null, but guided transfer needs a pretrained network: a timm name"
    ):
        GuidedTransfer(weight=1.0, source=None)
    with pytest.raises(ValueError, match="source: given 'vit', but there is nothing to load it with"):
        GuidedTransfer(weight=1.0, source="vit")
    with pytest.raises(ValueError, match="reduction: unknown reduction 'max'"):
        method(None, reduction="max")
    with pytest.raises(ValueError, match=r"shape \(1, 1, 1, 4\), the source's \(1, 1, 1, 5\)"):
        guided_transfer(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 5))
    with pytest.raises(RuntimeError, match="has not been prepared"):
        method(None)(Features())
    guided = method(network(1))
    guided.prepare(network(0), inputs_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="were not collected"):
        guided(Features())
