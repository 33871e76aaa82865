"""Claims about the GPU's kernels for rows: in Triton's interpreter they give what plain operations give.

On a GPU itself: in half precision, whole networks and CUDA graphs have the gradients of plain slices.
"""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from support.triton_interpreter import interpreted
from torch import Tensor

from pipeline.models.rows import attention_row, key_passthrough, query_passthrough

pytest.importorskip("triton", reason="triton comes with torch on Linux alone")

ROW = "pipeline.models.rows_triton:triton_row"
GRADIENTS = "pipeline.models.rows_triton:triton_row_gradients"


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def keys(images: int, heads: int, tokens: int, channels: int, dtype: torch.dtype) -> Tensor:
    """As timm's attention has them: a view of the projection, (B, T, 3, A, D), whose channels alone lie side by side."""
    return drawn(images, tokens, 3, heads, channels, dtype=dtype).permute(2, 0, 3, 1, 4)[1]


CASES = [
    (keys(2, 3, 17, 8, torch.bfloat16), 1),
    (keys(1, 2, 70, 12, torch.bfloat16), 5),  # two blocks of tokens; channels that are no power of two
    (keys(2, 1, 6, 16, torch.float16).contiguous(), 0),
    (keys(1, 1, 2, 4, torch.float16).transpose(-2, -1).contiguous().transpose(-2, -1), 1),  # one token; channels apart
]


def asking_of(key: Tensor) -> Tensor:
    return drawn(*key.shape[:2], key.shape[-1], dtype=torch.float32, seed=1)


def test_products_are_those_of_plain_operations(tmp_path: Path) -> None:
    cases = [{"key": key, "query": asking_of(key), "first": first} for key, first in CASES]
    for case, found in zip(cases, interpreted(cases, tmp_path, ROW), strict=True):
        torch.testing.assert_close(found, attention_row(**case), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_plain_operations_and_join_what_is_there(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = []
    for key, first in CASES:
        row = drawn(*key.shape[:2], key.shape[2] - first, dtype=torch.float32, seed=2)
        above = keys(*key.shape, key.dtype).flip(0).transpose(1, 2).contiguous().transpose(1, 2)
        cases.append({"into_key": above, "key": key, "query": asking_of(key), "row": row, "first": first})
    expected = []
    for case in cases:
        key, asking = case["key"].double().requires_grad_(), case["query"].double().requires_grad_()
        (key[:, :, case["first"] :] @ asking[..., None])[..., 0].backward(case["row"].double())
        assert key.grad is not None
        assert asking.grad is not None
        expected.append((case["into_key"].double() + key.grad, asking.grad))
    found = interpreted(cases, tmp_path, GRADIENTS)
    for case, into_query, (by_key, by_asking) in zip(cases, found, expected, strict=True):
        rounding = torch.finfo(case["key"].dtype).eps
        torch.testing.assert_close(case["into_key"].double(), by_key, rtol=rounding, atol=rounding)
        torch.testing.assert_close(into_query.double(), by_asking, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_kernels_compile_for_cuda_without_a_device_and_add_nothing_atomically(capability: int) -> None:
    script = f"""
        import re
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from pipeline.models import rows_triton

        key = dict(key="*bf16", key_image="i32", key_head="i32", key_token="i32", key_channel="i32")
        into = {{name.replace("key", "into", 1) if "_" in name else "into_key": kind for name, kind in key.items()}}
        shared = dict(query="*fp32", row="*fp32", heads="i32", first="i32", tokens="i32", channels="i32")
        for function, kinds in (
            (rows_triton._products, key | shared),
            (rows_triton._gradients, into | key | shared | dict(into_query="*fp32")),
        ):
            chosen = dict(token_block=64, channel_block=64)
            kinds = dict.fromkeys(function.arg_names, "constexpr") | kinds
            target = GPUTarget("cuda", {capability}, 32)
            built = triton.compile(ASTSource(function, kinds, constexprs=chosen), target=target)
            assert not re.search(r"\\b(atom|red)\\.", built.asm["ptx"])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_values_and_gradients_are_those_on_the_cpu(dtype: torch.dtype) -> None:
    def derived(device: str) -> list[Tensor]:
        query, key = (drawn(2, 3, 50, 64, dtype=dtype, seed=seed).to(device).requires_grad_() for seed in (3, 4))
        passed, asking = query_passthrough(query, None, 1.0)
        through, row = key_passthrough(key, asking / 8, 1)
        loss = row.pow(2).sum() + (passed.float() * through.float()).sum()
        return [each.detach().cpu() for each in (row, *torch.autograd.grad(loss, (query, key)))]

    for on_gpu, on_cpu in zip(derived("cuda"), derived("cpu"), strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=0.02, atol=0.02)
