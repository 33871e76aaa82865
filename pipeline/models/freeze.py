"""Freezing: blocks counted from the input, and all that comes before them, stay as they are while the rest is trained.

What is frozen needs no gradient, and nothing before it does: torch builds no graph through it, the optimizer holds no
state of it, and neither weight decay nor averaging of weights moves it. In training too it runs in evaluation mode,
without dropout, stochastic depth or statistics of the batch, so that for an image it gives what it always gives.
"""

from torch import nn

from .architecture import list_blocks, list_classifiers, list_parts_before

ALL = "all"
"""All but the classifier is frozen, the final norm too: linear probing."""


def freeze(model: nn.Module, count: int | str) -> None:
    """Freeze the first `count` blocks of a network with patch embedding, position embeddings and prefix tokens, or ALL.

    As many as there are leaves the final norm, what pools the tokens and the classifier to be trained; 0 all of it.

    Raises:
        ValueError: more blocks than there are, or a network of an unknown kind. Begins with `freeze: `.
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
    """How many blocks are frozen, counted from the input.

    Raises:
        ValueError: something is frozen in a network of an unknown kind.
    """
    if all(weight.requires_grad for weight in model.parameters()):
        return 0
    blocks = list_blocks(model)
    return next((number for number, block in enumerate(blocks) if is_trained(block)), len(blocks))


def is_trained(part: nn.Module) -> bool:
    """Whether a part of a network has weights that are not frozen."""
    return any(weight.requires_grad for weight in part.parameters())


def enter_training(model: nn.Module) -> None:
    """Put a network into training mode, but for what is frozen."""
    model.train()
    if not (frozen := count_frozen(model)):
        return
    before = [part for part in list_parts_before(model, frozen) if isinstance(part, nn.Module)]
    # Dropout before the classifier is of no frozen part, and has no weights either.
    after = [part for part in model.children() if any(True for _ in part.parameters()) and not is_trained(part)]
    for part in (*before, *after):
        part.eval()
