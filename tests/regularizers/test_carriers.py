"""Claims about which network carries which method, as the table in docs/methods.md has them: a step, or a refusal."""

from typing import Any

import pytest
import torch
from support.small_networks import PVT, SMALL, SWIN, network, pictures

from pipeline.regularizers.guide_network import GuideNetwork
from pipeline.regularizers.registry import METHODS, build_regularizers
from pipeline.train.objective import Objective

GAP = {**SMALL, "class_token": False, "global_pool": "avg"}
KINDS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "plain": ("vit_tiny_patch16_224", SMALL, (12, 12)),
    "not square": ("vit_tiny_patch16_224", SMALL, (8, 12)),
    "distilled": ("deit_tiny_distilled_patch16_224", SMALL, (12, 12)),
    "registers": ("vit_small_patch14_reg4_dinov2", {**SMALL, "patch_size": 2}, (12, 12)),
    "qk_norm": ("vit_tiny_patch16_224", {**SMALL, "qk_norm": True}, (12, 12)),
    "no CLS": ("vit_base_patch16_gap_224", GAP, (12, 12)),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, (24, 24)),
    "swin, windows": ("swin_tiny_patch4_window7_224", SWIN, (48, 48)),
    "pvt": ("pvt_v2_b0", PVT, (40, 24)),
    "pvt, linear": ("pvt_v2_b2_li", {**PVT, "sr_ratios": [4, 2, 1]}, (40, 24)),
}
PLAIN = ("plain", "not square", "distilled", "registers", "qk_norm")
MAPS_BY_MEAN = ("no CLS", "swin", "pvt")
CARRIERS: dict[str, tuple[str, ...]] = {
    "spatial_entropy": PLAIN,
    "total_variation": PLAIN,
    "spatial_entropy by mean": PLAIN + MAPS_BY_MEAN,
    "total_variation by mean": PLAIN + MAPS_BY_MEAN,
    "head_disagreement": (*PLAIN, *MAPS_BY_MEAN, "pvt, linear"),
    "relative_localisation": tuple(KINDS),
    "guided_transfer": PLAIN,
    "mask_supervision": PLAIN,
    "mask_supervision by mean": PLAIN + MAPS_BY_MEAN,
    "locality_guidance": (*PLAIN, "no CLS"),  # the stages of the others that have a final grid are of two blocks
}


def objective(kind: str, system: str) -> tuple[Any, Objective, torch.Tensor]:
    name, kwargs, side = KINDS[kind]
    model = network(name, kwargs, image_size=side).train()
    method, _, query = system.partition(" by ")
    options: dict[str, Any] = {"weight": 1.0, "watch": False, "schedule": "constant"}
    options |= {"query": query} if query else {}
    options |= {"source": "its like"} if method == "guided_transfer" else {}
    built = build_regularizers(
        {method: options},
        load_source=lambda _: network(name, kwargs, image_size=side, noise=0.2),
        guide=GuideNetwork(8, num_classes=3, channels=1),
    )
    return model, Objective(model, built, planned_epochs=1), pictures(*side)


def test_every_method_is_in_the_table() -> None:
    assert {system.partition(" by ")[0] for system in CARRIERS} == set(METHODS)


@pytest.mark.parametrize(("system", "kind"), [(system, kind) for system in CARRIERS for kind in CARRIERS[system]])
def test_network_carries_the_method(system: str, kind: str) -> None:
    model, made, images = objective(kind, system)
    with made:
        loss = made.step(images, torch.tensor([0, 1, 2, 0]), 0, (images[:, 0] > 0).float())
        loss.total.backward()
    method = system.partition(" by ")[0]
    assert loss.total.isfinite()
    assert f"{method}/value" in loss.monitors
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)


@pytest.mark.parametrize(
    ("system", "kind"), [(system, kind) for system in CARRIERS for kind in KINDS if kind not in CARRIERS[system]]
)
def test_network_that_cannot_carry_the_method_is_refused_by_both_names(system: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"^regularizer\.") as refused:
        objective(kind, system)
    said = str(refused.value)
    assert system.partition(" by ")[0] in said
    assert any(name in said for name in ("VisionTransformer", "Swin", "PyramidVision"))
    assert any(word in said for word in ("take", "query 'mean'", "need", "compares plain ViTs", "that has"))
