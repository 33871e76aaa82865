"""Rows of query-key products, and their gradients, on a GPU in half precision: keys are read as they are, once.

One program works on one image and head. Plain operations would write the keys out in float32 first, for either pass.
What is added to the keys' gradient is added in place; nothing is added atomically and nothing waits for the device, so
results are the same in every run and a CUDA graph can hold both launches.

Import this module only to run it: it imports triton. Under TRITON_INTERPRET=1, set before triton is imported, it runs
on the CPU, which is how the tests compare it with plain PyTorch.

Shapes: B images, A heads, T tokens, D channels of a head; S = T less the tokens that a row leaves out.
"""

# Triton's functions are no Python to mypy: their arguments have the types that the launch gives them.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS_AT_ONCE = 64
WIDEST = 256
"""Channels of a head; more would not stay in registers."""


def triton_row(key: Tensor, query: Tensor, first: int) -> Tensor:
    """Products of `query` (B, A, D) float32 with the keys (B, A, T, D) from token `first` on: (B, A, S) float32."""
    images, heads, tokens, channels = key.shape
    query = query.contiguous()
    row = torch.empty(images, heads, tokens - first, dtype=torch.float32, device=key.device)
    _products[(images * heads,)](
        key, *key.stride(), query, row, heads, first, tokens - first, channels, *_blocks(tokens - first, channels)
    )
    return row


def triton_row_gradients(into_key: Tensor, key: Tensor, query: Tensor, row: Tensor, first: int) -> Tensor:
    """The gradient (B, A, D) by `query`; that by the keys is added to `into_key` (B, A, T, D) in place.

    row: (B, A, S), the gradient by the products. into_key: no two of its elements one in memory.
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
    return min(TOKENS_AT_ONCE, triton.next_power_of_2(max(1, tokens))), triton.next_power_of_2(channels)


# A size of 1 would be made a constant, and constants have no methods.
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
