"""Freezing of a network's first blocks and of all parts before them, while the rest is trained.

Frozen parts need no gradient, and nothing before them does. Therefore torch builds no graph through them, the
optimizer has no state for them, and neither weight decay nor weight averaging changes them. Frozen parts run
in evaluation mode during training too, without dropout, stochastic depth or batch statistics. Their output
for an image is thus always the same.
"""

from torch import nn

from .architecture import list_blocks, list_classifiers, list_parts_before

ALL = "all"
"""Value of `count` that freezes everything but the classifier, also the final norm: linear probing."""


def freeze(model: nn.Module, count: int | str) -> None:
    """Freezes the first `count` blocks of a network, with its patch embedding, position embeddings and prefix tokens.

    If `count` is the number of blocks, the final norm, the pooling and the classifier are still trained.

    Args:
        model: network of timm, changed in place.
        count: number of blocks counted from the input, 0 for no freezing, or ALL for all parts but the classifier.

    Raises:
        ValueError: more blocks than there are, or a network of an unknown kind. The message begins with `freeze: `.
    """
    if count == 0:
        return
    if isinstance(count, str):
        if count != ALL:
            raise ValueError(f"freeze: given {count!r}; allowed: a number of blocks, or {ALL}")
        model.requires_grad_(False)
        for classifier in list_classifiers(model):
            classifier.requires_grad_(True)
        return
    blocks = len(list_blocks(model))
    if not 0 <= count <= blocks:
        raise ValueError(
            f"freeze: {count} blocks cannot be frozen in a network of {blocks}; take 0 to {blocks}, or {ALL}"
        )
    for part in list_parts_before(model, count):
        part.requires_grad_(False)


def count_frozen(model: nn.Module) -> int:
    """Returns the number of frozen blocks, counted from the input.

    Args:
        model: network of timm.

    Raises:
        ValueError: a network of an unknown kind that has frozen weights.
    """
    if all(weight.requires_grad for weight in model.parameters()):
        return 0
    blocks = list_blocks(model)
    return next((number for number, block in enumerate(blocks) if is_trained(block)), len(blocks))


def is_trained(part: nn.Module) -> bool:
    """Returns whether a part of a network has weights that are not frozen.

    Args:
        part: module of a network.
    """
    return any(weight.requires_grad for weight in part.parameters())


def enter_training(model: nn.Module) -> None:
    """Switches a network to training mode, except for its frozen parts.

    Args:
        model: network of timm, changed in place.
    """
    model.train()
    if not (frozen := count_frozen(model)):
        return
    before = [part for part in list_parts_before(model, frozen) if isinstance(part, nn.Module)]
    # Dropout before the classifier stays on: it belongs to no frozen part, and it has no weights.
    after = [part for part in model.children() if any(True for _ in part.parameters()) and not is_trained(part)]
    for part in (*before, *after):
        part.eval()
