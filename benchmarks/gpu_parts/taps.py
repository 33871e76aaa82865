"""What reading rows costs beside a fused attention, forward and backward: a block of ViT-S/16, its keys' traffic."""

from collections.abc import Callable, Mapping

import torch
from harness import Timing
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.setting import Report, Setting
from gpu_parts.timing import Work, by_turns, captured
from pipeline.models.rows import attention_row, key_passthrough, pooled_query, query_passthrough, split_projected


def run(setting: Setting, report: Report) -> None:
    images, tokens, heads, channels = (2, 17, 2, 8) if setting.small else (256, 197, 6, 64)
    scale = channels**-0.5
    generator = setting.generator()
    projected = torch.randn(images, tokens, 3 * heads * channels, generator=generator).to(torch.bfloat16)
    leaf = projected.to(setting.device).requires_grad_()
    above = torch.randn(images, heads, tokens, channels, generator=generator).to(setting.device, torch.bfloat16)
    into_row = torch.randn(images, heads, tokens - 1, generator=generator).to(setting.device)

    def alone() -> Tensor:
        query, key, value = split_projected(leaf, 3, heads)
        return torch.autograd.grad(F.scaled_dot_product_attention(query, key, value), leaf, above)[0]

    def ours() -> Tensor:
        query, key, value = split_projected(leaf, 3, heads)
        query, asking = query_passthrough(query, None, scale)
        key, row = key_passthrough(key, asking, 1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return torch.autograd.grad((mixed, row), leaf, (above, into_row))[0]

    def slices() -> Tensor:
        query, key, value = split_projected(leaf, 3, heads)
        row = attention_row(key, pooled_query(query, None) * scale, 1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return torch.autograd.grad((mixed, row), leaf, (above, into_row))[0]

    sides: dict[str, Callable[[], Tensor]] = {
        "attention alone": alone,
        "rows, ours": ours,
        "rows, plain slices": slices,
    }
    kind = f"{images} images, {tokens} tokens, {heads} heads of {channels}, bfloat16"
    tell(report, f"eager, {kind}", by_turns(dict(sides), setting.device, rounds=setting.rounds(20), calls=10))
    if setting.small:
        report.note("no CUDA graph without a GPU")
        return
    graphs = {name: captured(work)[0] for name, work in sides.items()}
    replays: dict[str, Work] = {name: graph.replay for name, graph in graphs.items()}
    timings = by_turns(replays, setting.device, rounds=setting.rounds(20), calls=10)
    tell(report, f"CUDA graph, {kind}", timings)
    # The least that must move: keys read going forward; read again, and their gradient read and written, going back.
    traffic = 4 * 2 * images * heads * tokens * channels
    extra = [
        mine - its for mine, its in zip(timings["rows, ours"].times, timings["attention alone"].times, strict=True)
    ]
    if min(extra) > 0:
        report.values("the keys' least traffic over the time added", [traffic / 1e6 / each for each in extra], "GB/s")


def tell(report: Report, kind: str, timings: Mapping[str, Timing]) -> None:
    """Every side, and what it takes more than attention alone."""
    alone = timings["attention alone"]
    for name, timing in timings.items():
        report.timing(f"{kind}: {name}", timing, unit="us")
        if timing is not alone:
            added = [1000 * (mine - its) for mine, its in zip(timing.times, alone.times, strict=True)]
            report.values(f"{kind}: {name}, added", added, "us")
