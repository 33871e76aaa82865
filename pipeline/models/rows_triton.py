"""Rows of query-key products, and their gradients, on a GPU in half precision. Each kernel reads the keys
once, as they are.

One program works on one image and head. Plain operations would write the keys out in float32 first, in the forward and
in the backward pass. The keys' share is added to their gradient in place. No addition is atomic and no launch waits
for the device. Results are therefore the same in every run, and a CUDA graph can hold both launches.

This module imports triton, so it is imported only to run its kernels. Under TRITON_INTERPRET=1, set before
triton is imported, it runs on the CPU. The tests compare it with plain PyTorch in this way.

Shapes: B images, A heads, T tokens, D channels of a head; S = T less the tokens that a row leaves out.
"""

# mypy cannot check Triton's functions: the types of their arguments are set at launch.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS_AT_ONCE = 64
WIDEST = 256
"""The most channels of a head; more would not fit into registers."""


def triton_row(key: Tensor, query: Tensor, first: int) -> Tensor:
    """Returns the products of a query with keys, (B, A, S) float32.

    Args:
        key: keys, (B, A, T, D).
        query: one query per image and head, (B, A, D) float32.
        first: first token whose key is used.
    """
    images, heads, tokens, channels = key.shape
    query = query.contiguous()
    row = torch.empty(images, heads, tokens - first, dtype=torch.float32, device=key.device)
    _products[(images * heads,)](
        key, *key.stride(), query, row, heads, first, tokens - first, channels, *_blocks(tokens - first, channels)
    )
    return row


def triton_row_gradients(into_key: Tensor, key: Tensor, query: Tensor, row: Tensor, first: int) -> Tensor:
    """Returns the gradient by the query, (B, A, D), and adds the gradient by the keys to `into_key` in place.

    Args:
        into_key: gradient by the keys so far, (B, A, T, D); no two of its elements share memory.
        key: keys, (B, A, T, D).
        query: one query per image and head, (B, A, D) float32.
        row: gradient by the products, (B, A, S).
        first: first token whose key is used.
    """
    images, heads, tokens, channels = key.shape
    query, row = query.contiguous(), row.contiguous()
    into_asking = torch.empty_like(query)
    _gradients[(images * heads,)](
        into_key,
        *into_key.stride(),
        key,
        *key.stride(),
        query,
        row,
        into_asking,
        heads,
        first,
        tokens - first,
        channels,
        *_blocks(tokens - first, channels),
    )
    return into_asking


def _blocks(tokens: int, channels: int) -> tuple[int, int]:
    """Returns the tokens and the channels that a program reads at once, both powers of two."""
    return min(TOKENS_AT_ONCE, triton.next_power_of_2(max(1, tokens))), triton.next_power_of_2(channels)


# Triton turns an argument of value 1 into a constant, which has no methods, unless it is excluded from specialisation.
@triton.jit(do_not_specialize=["heads", "first", "tokens"])
def _products(
    key,
    key_image,
    key_head,
    key_token,
    key_channel,
    query,
    row,
    heads,
    first,
    tokens,
    channels,
    token_block: tl.constexpr,
    channel_block: tl.constexpr,
):
    """Computes the products of one image and head.

    Args:
        key: pointer to the keys.
        key_image, key_head, key_token, key_channel: strides of the keys.
        query: pointer to the queries, contiguous.
        row: pointer to the products, contiguous.
        heads: number of heads, A.
        first: first token whose key is used.
        tokens: number of products, S.
        channels: channels of a head, D.
        token_block: tokens that are read at once, a power of two.
        channel_block: the power of two that is at least `channels`.
    """
    place = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, channel_block)
    asked = tl.load(query + place * channels + channel, mask=channel < channels, other=0.0)
    start = key + (place // heads) * key_image + (place % heads) * key_head + first * key_token
    for begin in range(0, tokens, token_block):
        token = begin + tl.arange(0, token_block)
        there = (token < tokens)[:, None] & (channel < channels)[None, :]
        at = token[:, None] * key_token + channel[None, :] * key_channel
        keys = tl.load(start + at, mask=there, other=0.0).to(tl.float32)
        tl.store(row + place * tokens + token, tl.sum(keys * asked[None, :], axis=1), mask=token < tokens)


@triton.jit(do_not_specialize=["heads", "first", "tokens"])
def _gradients(
    into_key,
    into_image,
    into_head,
    into_token,
    into_channel,
    key,
    key_image,
    key_head,
    key_token,
    key_channel,
    query,
    row,
    into_query,
    heads,
    first,
    tokens,
    channels,
    token_block: tl.constexpr,
    channel_block: tl.constexpr,
):
    """Computes the gradients of one image and head: adds to that of the keys, and writes that of the query.

    Args:
        into_key: pointer to the gradient by the keys.
        into_image, into_head, into_token, into_channel: strides of this gradient.
        key: pointer to the keys.
        key_image, key_head, key_token, key_channel: strides of the keys.
        query: pointer to the queries, contiguous.
        row: pointer to the gradient by the products, contiguous.
        into_query: pointer to the gradient by the query, contiguous.
        heads: number of heads, A.
        first: first token whose key is used.
        tokens: number of products, S.
        channels: channels of a head, D.
        token_block: tokens that are read at once, a power of two.
        channel_block: the power of two that is at least `channels`.
    """
    place = tl.program_id(0).to(tl.int64)
    image, head = place // heads, place % heads
    channel = tl.arange(0, channel_block)
    asked = tl.load(query + place * channels + channel, mask=channel < channels, other=0.0)
    start = key + image * key_image + head * key_head + first * key_token
    target = into_key + image * into_image + head * into_head + first * into_token
    total = tl.zeros((channel_block,), tl.float32)
    for begin in range(0, tokens, token_block):
        token = begin + tl.arange(0, token_block)
        there = (token < tokens)[:, None] & (channel < channels)[None, :]
        above = tl.load(row + place * tokens + token, mask=token < tokens, other=0.0)
        keys = tl.load(start + token[:, None] * key_token + channel[None, :] * key_channel, mask=there, other=0.0)
        total += tl.sum(keys.to(tl.float32) * above[:, None], axis=0)
        at = token[:, None] * into_token + channel[None, :] * into_channel
        found = tl.load(target + at, mask=there, other=0.0).to(tl.float32)
        added = found + above[:, None] * asked[None, :]
        tl.store(target + at, added.to(into_key.dtype.element_ty), mask=there)
    tl.store(into_query + place * channels + channel, total, mask=channel < channels)
