"""Spatial-prior attention (SP-ViT: Zhou et al., arXiv 2206.07662; BMVC 2022).

    r_ij    = (x_j - x_i, y_j - y_i)                         patch offsets, key minus query
    SP_ij   = w2 . relu(W1 r_ij + b1) + b2                   one small MLP a head
    A       = softmax_j( (q_i . k_j / sqrt(d_head)) SP_ij )  multiplied before the softmax

At the start w2 = 0 and b2 = 1, so the prior is exactly 1 and the logits are those of plain attention, bit for bit. The
output is then, bit for bit, that of timm's own attention without a fused kernel (`fused_attn` off in the blocks that
have the prior). A fused kernel takes no factor, and rounds differently, by about 1e-7. The random draws of a network
come before those of its priors. With and without priors, the same seed therefore gives the same weights.

In the authors' networks the CLS token joins after the blocks that have the prior. Here it is there from the start, so
the prior is 1 on the rows and columns of prefix tokens. b2 must stay out of weight decay, which would flatten
attention. b1 and b2 have one dimension, and timm's optimizers exclude such parameters from weight decay.

The authors' release has a depthwise 3 x 3 convolution with a residual after every block, which can explain a
gain as well as the prior can. Here it is an option, off by default, and begins at zero, so that the network
starts unchanged. The release's convolution begins with torch's random weights.

Shapes: B images, A heads, N = H x W patches, P prefix tokens, T = P + N, D channels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import without_autocast


class SpatialPrior(nn.Module):
    """The prior: a factor for each pair of patches.

    Args:
        heads: number of heads, A.
        hidden: width of a head's MLP.
        grid: (H, W).
    """

    offsets: Tensor
    pairs: Tensor

    def __init__(self, heads: int, hidden: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.hidden = heads, hidden
        self.inner = nn.Linear(2, heads * hidden)  # W1 and b1 of all heads, one below the other
        self.outer_weight = nn.Parameter(torch.zeros(heads, hidden))
        self.outer_bias = nn.Parameter(torch.ones(heads))
        nn.init.trunc_normal_(self.inner.weight, std=0.02)
        nn.init.zeros_(self.inner.bias)
        height, width = grid
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        down, right = (
            each.flatten()[None, :] - each.flatten()[:, None] for each in (rows, columns)
        )  # (N, N): key minus query
        every = torch.cartesian_prod(torch.arange(1 - height, height), torch.arange(1 - width, width))
        # Both follow from the grid, so checkpoints need not store them.
        self.register_buffer("offsets", every.flip(1).float(), persistent=False)
        self.register_buffer("pairs", (down + height - 1) * (2 * width - 1) + right + width - 1, persistent=False)

    def forward(self) -> Tensor:
        """Returns the prior of all pairs of patches, (A, N, N), query by key, in the parameters' precision.

        The MLPs are evaluated only for the (2H - 1)(2W - 1) distinct offsets; pairs are looked up in that table.
        """
        with without_autocast(self.offsets.device):
            inside = self.inner(self.offsets).relu().unflatten(-1, (self.heads, self.hidden))
            table = torch.einsum("oah,ah->ao", inside, self.outer_weight) + self.outer_bias[:, None]
        return table[:, self.pairs]


class PriorAttention(nn.Module):
    """timm's attention, built from the parts of one, with the prior as a factor of its logits. Tokens: (B, T, D).

    Its keys are those of the original attention, and `prior.*`.

    Args:
        plain: timm's attention, whose parts are used.
        prior: the prior.
        prefix: number of prefix tokens, P.
    """

    def __init__(self, plain: Any, prior: SpatialPrior, prefix: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = plain.num_heads, plain.head_dim, plain.scale
        self.prefix = prefix
        self.qkv, self.q_norm, self.k_norm = plain.qkv, plain.q_norm, plain.k_norm
        self.attn_drop, self.norm, self.proj, self.proj_drop = plain.attn_drop, plain.norm, plain.proj, plain.proj_drop
        self.gate = getattr(plain, "gate", None)
        self.prior = prior

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Returns the output tokens, (B, T, D).

        Args:
            tokens: (B, T, D).
            attn_mask: must be None, since images have no mask.
            is_causal: must be False.

        Raises:
            ValueError: a mask was passed.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("attention with a spatial prior takes no mask")
        gate = self.gate(tokens).sigmoid() if self.gate is not None else None
        projected = self.qkv(tokens).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        logits = (query * self.scale) @ key.transpose(-2, -1)
        prior = F.pad(self.prior(), (self.prefix, 0, self.prefix, 0), value=1.0)
        attended = self.attn_drop((logits * prior).softmax(dim=-1)) @ value
        joined = self.norm(attended.transpose(1, 2).flatten(2))
        given: Tensor = self.proj_drop(self.proj(joined if gate is None else joined * gate))
        return given


class PositionalConv(nn.Module):
    """Adds a depthwise 3 x 3 convolution of the patches to them. It is zero at first, and prefix tokens pass
    unchanged.

    Args:
        channels: channels of a token, D.
        grid: (H, W).
        prefix: number of prefix tokens, P.
    """

    def __init__(self, channels: int, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.grid, self.prefix = grid, prefix
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        nn.init.zeros_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the tokens, (B, T, D), with the convolution added to the patches."""
        patches = tokens[:, self.prefix :].transpose(1, 2)
        picture = patches.reshape(*patches.shape[:2], *self.grid)
        added = self.conv(picture).flatten(2).transpose(1, 2)
        return tokens + F.pad(added, (0, 0, self.prefix, 0))


def is_of_prior(key: str) -> bool:
    """Returns whether a key of a network's state belongs to a spatial prior or to the positional convolutions.

    Args:
        key: dotted name of a parameter.
    """
    return ".attn.prior." in key or ".positional_conv." in key
