"""Collection of the features that a regulariser needs, by the taps of `pipeline.models.tap`.

Shapes: B images, L tapped layers, A heads, H x W patches.
"""

from typing import Any

from torch import Tensor, nn

from pipeline.models.architecture import describe_network, last_part
from pipeline.models.freeze import count_frozen, is_trained
from pipeline.models.tap import BlockTap, HeadTap, SimilarityTap, TokenTap
from pipeline.regularizers.base import Features, RequiredFeatures, at_least_float32
from pipeline.regularizers.projected_rows import pass_projected


def carries_gradient(model: nn.Module, needs: RequiredFeatures) -> bool:
    """Returns whether the collected features depend on a weight that is trained; True if none are collected.

    Args:
        model: The network, possibly with frozen blocks.
        needs: The features of the regulariser.

    Raises:
        ValueError: If `needs` names blocks that the network does not have.
    """
    if not (frozen := count_frozen(model)):
        return True
    architecture = describe_network(model)
    specs = (needs.similarity, needs.heads, needs.blocks)
    read = [block for spec in specs if spec is not None for block in architecture.resolve(spec)]
    after_blocks = frozen < architecture.blocks or is_trained(last_part(model))
    collects = bool(read) or needs.tokens
    return not collects or any(block >= frozen for block in read) or (needs.tokens and after_blocks)


class Collector:
    """The taps of one regulariser in one network.

    Args:
        model: The network, into which taps are placed.
        needs: The features to collect.

    Raises:
        ValueError: If the network cannot provide a feature. All taps are then removed again.
    """

    def __init__(self, model: nn.Module, needs: RequiredFeatures) -> None:
        self._needs = needs
        self._similarity: SimilarityTap | None = None
        self._heads: HeadTap | None = None
        self._tokens: TokenTap | None = None
        self._blocks: BlockTap | None = None
        try:
            if needs.similarity is not None:
                self._similarity = SimilarityTap(
                    model, needs.similarity, needs.query, with_cls=needs.with_cls, rows=pass_projected
                )
            if needs.heads is not None:
                self._heads = HeadTap(model, needs.heads)
            if needs.tokens:
                self._tokens = TokenTap(model)
            if needs.blocks is not None:
                self._blocks = BlockTap(model, needs.blocks)
        except ValueError:
            self.remove()
            raise

    def features(self, inputs: Tensor | None = None, masks: Tensor | None = None) -> Features:
        """Returns the features of the last forward pass.

        Args:
            inputs: Images of that pass; None if they are not required.
            masks: Masks of these images; None if they are not required.
        """
        similarity, cls = self._similarity, self._needs.with_cls
        return Features(
            similarity=similarity.maps() if similarity else None,
            heads=at_least_float32(self._heads.outputs()) if self._heads else None,
            tokens=at_least_float32(self._tokens.tokens()) if self._tokens else None,
            inputs=inputs if self._needs.inputs else None,
            cls=similarity.cls() if similarity and cls else None,
            masks=masks if self._needs.masks else None,
            blocks=at_least_float32(self._blocks.tokens()) if self._blocks else None,
        )

    def expect(self, features: bool) -> None:
        """Sets whether the features of the following forward passes are read. If not, maps are not computed."""
        if self._similarity is not None:
            self._similarity.expected = features

    def clear(self) -> None:
        """Discards the results of the last forward pass, and the activations that they hold."""
        for tap in self._taps():
            tap.clear()

    def remove(self) -> None:
        """Removes the taps from the network."""
        for tap in self._taps():
            tap.remove()

    def _taps(self) -> list[Any]:
        return [tap for tap in (self._similarity, self._heads, self._tokens, self._blocks) if tap is not None]
