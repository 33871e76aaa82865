"""Rows of query-key products on the CPU, read from what an attention projects its tokens to, in one compiled pass.

What `rows.pass_query` and `rows.pass_key` do with a dozen calls of torch is one call here, forward and backward: on
small networks it is calls that cost. It takes queries and keys before their norms, and so serves attentions that have
none.

Shapes: B images, T tokens, A heads, D channels of a head; S = T less the tokens that a row leaves out.

Import this module only to run it: it imports numba, which takes most of a second.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compute.compiled import compiled_in_any_order
from pipeline.compute.threads import spread

FEWEST_VALUES = 600_000
"""Of queries, keys and values: a thread of its own pays from about as many on."""

Reals = NDArray[np.floating]


def read_rows(projected: Tensor, heads: int, asked: tuple[int, int], first: int, scale: float) -> Tensor:
    """The rows (B, A, S) of the tokens from `first` on, in the precision of `projected`.

    projected: (B, T, 3 A D), queries, keys and values side by side, contiguous, float32 or float64, on the CPU. asked:
    the tokens whose mean query asks, from and up to. scale: what every product is multiplied by.
    """
    given = _array(projected)
    images, tokens, width = given.shape
    row = np.empty((images, heads, tokens - first), given.dtype)
    if given.size < 2 * FEWEST_VALUES:  # which no two threads would share
        _read(0, images, given, *asked, first, scale, row)
    else:
        spread(_read, images, given, *asked, first, scale, row, least=_images(tokens * width))
    return torch.from_numpy(row)


def add_gradients(
    above: Tensor, projected: Tensor, row: Tensor, asked: tuple[int, int], first: int, scale: float
) -> None:
    """Add to `above`, a gradient by `projected`, what follows from `row`, (B, A, S), a gradient by `read_rows`' rows.

    above: contiguous, of the shape and precision of `projected`. The rest as `read_rows` has it.
    """
    given = _array(projected)
    images, tokens, width = given.shape
    # Asking is much cheaper than having torch make contiguous what is.
    share = _array(row if row.is_contiguous() else row.contiguous())
    # `above` is changed through an array of the same memory: it is contiguous.
    changed = _array(above)
    if given.size < 2 * FEWEST_VALUES:
        _add(0, images, changed, given, share, *asked, first, scale)
    else:
        spread(_add, images, changed, given, share, *asked, first, scale, least=_images(tokens * width))


def compile_ahead() -> None:
    """Compile for float32 and keep that, so that no search spends these seconds; part of the installation."""
    projected = torch.zeros(1, 2, 3)
    row = read_rows(projected, 1, (0, 1), 1, 1.0)
    add_gradients(torch.zeros_like(projected), projected, row, (0, 1), 1, 1.0)


def _array(tensor: Tensor) -> Reals:
    array: Reals = tensor.numpy(force=True)
    return array


def _images(values: int) -> int:
    return -(-FEWEST_VALUES // values)


@compiled_in_any_order
def _read(begin: int, end: int, projected: Reals, start: int, stop: int, first: int, scale: float, row: Reals) -> None:
    images, tokens, width = projected.shape
    heads = row.shape[1]
    channels = width // (3 * heads)
    parts = projected.reshape(images, tokens, 3, heads, channels)
    asking = np.empty((heads, channels), parts.dtype)
    for image in range(begin, end):
        _ask(parts[image], start, stop, scale / (stop - start), asking)
        # Token by token, in the order in which they lie in memory.
        for token in range(first, tokens):
            for head in range(heads):
                key, ask = parts[image, token, 1, head], asking[head]
                summed = key[0] * 0
                for at in range(channels):
                    summed += key[at] * ask[at]
                row[image, head, token - first] = summed


@compiled_in_any_order
def _add(
    begin: int,
    end: int,
    above: Reals,
    projected: Reals,
    share: Reals,
    start: int,
    stop: int,
    first: int,
    scale: float,
) -> None:
    images, tokens, width = projected.shape
    heads = share.shape[1]
    channels, factor = width // (3 * heads), scale / (stop - start)
    parts = projected.reshape(images, tokens, 3, heads, channels)
    into = above.reshape(images, tokens, 3, heads, channels)
    asking, pulled = np.empty((heads, channels), parts.dtype), np.empty((heads, channels), parts.dtype)
    for image in range(begin, end):
        _ask(parts[image], start, stop, factor, asking)
        pulled[:] = 0
        for token in range(first, tokens):
            for head in range(heads):
                weight = share[image, head, token - first]
                key, ask, pull = parts[image, token, 1, head], asking[head], pulled[head]
                out = into[image, token, 1, head]
                for at in range(channels):
                    out[at] += weight * ask[at]
                    pull[at] += weight * key[at]
        for token in range(start, stop):
            for head in range(heads):
                out, pull = into[image, token, 0, head], pulled[head]
                for at in range(channels):
                    out[at] += pull[at] * factor


@compiled_in_any_order
def _ask(image: Reals, start: int, stop: int, factor: float, asking: Reals) -> None:
    """Fill in the mean query of some tokens, by head, scaled. factor: the scale over the number of tokens."""
    asking[:] = 0
    heads, channels = asking.shape
    for token in range(start, stop):
        for head in range(heads):
            for at in range(channels):
                asking[head, at] += image[token, 0, head, at]
    for head in range(heads):
        for at in range(channels):
            asking[head, at] *= factor
