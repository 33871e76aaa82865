"""The last block without skip: the variant that SAR is used with in its authors' commands.

    x = MSA(LN1(x))        no residual, no stochastic depth
    x = x + MLP(x)         LN2 is the identity; residual and stochastic depth as they were

(Peruzzo et al., arXiv 2206.04636, "nosn" in the released code). What the head sees is then made of attention alone. In
networks with layer scale the equations leave out the attention's, which scales a residual's branch and would shrink the
whole signal here (by 1e-5 at the start); the MLP's, a residual's branch still, stays.
"""

from typing import Any

from torch import Tensor, nn


class NoSkipBlock(nn.Module):
    """A timm block's own parts, joined as the equations of this module say. Tokens in and out: (B, T, D).

    It has the keys of the block that it is made of, less `norm2` and `ls1`, so weights of the network with a standard
    last block load with `strict=False`: nothing is missing, and those stay unused.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = block.attn
        self.mlp = block.mlp
        self.ls2 = block.ls2
        self.drop_path2 = block.drop_path2

    def forward(self, tokens: Tensor, **masks: Any) -> Tensor:
        """masks: what timm hands on to the attention."""
        tokens = self.attn(self.norm1(tokens), **masks)
        changed: Tensor = tokens + self.drop_path2(self.ls2(self.mlp(tokens)))
        return changed


def unused_without_skip(model: Any) -> tuple[str, ...]:
    """Beginnings of the keys that a standard last block has and the network's own does not; () where it has them."""
    blocks = getattr(model, "blocks", None)
    if blocks is None or not isinstance(blocks[-1], NoSkipBlock):
        return ()
    return skip_parameter_names(model)


def skip_parameter_names(model: Any) -> tuple[str, ...]:
    """Beginnings of the keys that only a standard last block has."""
    last = len(getattr(model, "blocks", ())) - 1
    return f"blocks.{last}.norm2.", f"blocks.{last}.ls1."


def remove_skip(model: Any) -> None:
    """Replace the last block of a Vision Transformer by one without skip, with the same weights.

    Raises:
        ValueError: a network whose last block is not timm's standard one.
    """
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise ValueError(f"no_skip is for Vision Transformers, and this is a {type(model).__name__}; take standard")
    last: nn.Module = model.blocks[-1]
    if type(last) is not Block:
        raise ValueError(
            f"no_skip rebuilds timm's standard blocks, and the last one here is a {type(last).__name__}; take standard"
        )
    model.blocks[-1] = NoSkipBlock(last)
