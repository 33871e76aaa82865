"""How a result is judged, and memory that says so when nobody has written to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """found: by the path under test. expected: in float64. within: of the largest expected value."""

    name: str
    found: Tensor
    expected: Tensor
    within: float

    def error(self) -> float:
        """The largest difference as a share of what is allowed: 1 or more is wrong. Infinite for NaN and shapes."""
        found, expected = self.found.detach().cpu().double(), self.expected.detach().cpu().double()
        if found.shape != expected.shape or not bool(expected.isfinite().all()) or not bool(found.isfinite().all()):
            return float("inf")
        if found.numel() == 0:
            return 0.0
        scale = float(expected.abs().max()) or 1.0
        return float((found - expected).abs().max()) / (self.within * scale)


@contextmanager
def poisoned(device: torch.device) -> Iterator[None]:
    """Inside, memory that is asked for empty is full of NaN (of the largest integer, of True).

    torch does that itself where algorithms must be deterministic. What it had free before is stained too.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined, unused-ignore]
    stain(device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined, unused-ignore]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined, unused-ignore]


def stain(device: torch.device) -> None:
    """Fill what the allocator has free with NaN, for paths that must run as they do in training."""
    if device.type != "cuda":
        return
    held = [torch.full((2**power,), float("nan"), device=device) for power in range(7, 27) for _ in range(2)]
    del held


def spread_keys(
    images: int, heads: int, tokens: int, channels: int, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Keys (B, A, T, D) as timm's attention has them: a view of what was projected, (B, T, 3, A, D)."""
    drawn = torch.randn(images, tokens, 3, heads, channels, generator=generator).to(dtype)
    return drawn.permute(2, 0, 3, 1, 4)[1]


def flat(tensors: list[Tensor]) -> Tensor:
    """One vector of several tensors, on the CPU in float64."""
    assert all(one.device == other.device for one, other in pairwise(tensors))
    return torch.cat([each.detach().flatten().cpu().double() for each in tensors])
