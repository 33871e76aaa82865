"""The last block without skip: the variant that SAR is used with in its authors' commands.

    x = MSA(LN1(x))        no residual, no stochastic depth
    x = x + MLP(x)         LN2 is the identity; residual and stochastic depth unchanged

(Peruzzo et al., arXiv 2206.04636, "nosn" in the released code). The classifier then receives nothing but the
output of attention. In networks with layer scale, the attention's layer scale is left out: it is meant for a
residual's branch, and would shrink the whole signal here (by 1e-5 at the start). The MLP's layer scale stays,
because the MLP is still a residual's branch.
"""

from typing import Any

from torch import Tensor, nn


class NoSkipBlock(nn.Module):
    """The parts of a timm block, joined by the equations of this module. Tokens in and out: (B, T, D).

    Its keys are those of the original block, without `norm2` and `ls1`. Weights of the network with a standard last
    block therefore load with `strict=False`: no key is missing, and the weights of `norm2` and `ls1` stay unused.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = block.attn
        self.mlp = block.mlp
        self.ls2 = block.ls2
        self.drop_path2 = block.drop_path2

    def forward(self, tokens: Tensor, **masks: Any) -> Tensor:
        """Returns the output tokens.

        Args:
            tokens: (B, T, D).
            masks: keyword arguments that timm passes to the attention.
        """
        tokens = self.attn(self.norm1(tokens), **masks)
        changed: Tensor = tokens + self.drop_path2(self.ls2(self.mlp(tokens)))
        return changed


def unused_without_skip(model: Any) -> tuple[str, ...]:
    """Returns the prefixes of the keys that a standard last block has and this network's last block lacks.

    The tuple is empty if the network has a standard last block.
    """
    blocks = getattr(model, "blocks", None)
    if blocks is None or not isinstance(blocks[-1], NoSkipBlock):
        return ()
    return skip_parameter_names(model)


def skip_parameter_names(model: Any) -> tuple[str, ...]:
    """Returns the prefixes of the keys that only a standard last block has."""
    last = len(getattr(model, "blocks", ())) - 1
    return f"blocks.{last}.norm2.", f"blocks.{last}.ls1."


def remove_skip(model: Any) -> None:
    """Replaces the last block of a Vision Transformer by one without skip, with the same weights.

    Raises:
        ValueError: the last block of the network is not timm's standard block.
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
