"""Claims about the GPU's kernel: in Triton's interpreter it gives what plain PyTorch gives, and it compiles for CUDA.

On a GPU itself: the same values, the same bits in every run, and inside a CUDA graph.
"""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.cuda_graphs import captured
from support.reference_entropy import clear_of_the_cut, nasty_maps, random_maps
from support.triton_interpreter import interpreted
from torch import Tensor

from pipeline.regularizers.kernels.entropy_plain import plain_entropy
from pipeline.regularizers.spatial_entropy import entropy_and_empty, spatial_entropy

pytest.importorskip("triton", reason="triton comes with torch on Linux alone")


def case(maps: Tensor, threshold: float | Tensor, connectivity: int, with_gradient: bool = True) -> dict[str, Any]:
    return {"maps": maps, "threshold": threshold, "connectivity": connectivity, "with_gradient": with_gradient}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def nasty(side: int, dtype: torch.dtype) -> Tensor:
    return torch.stack(list(nasty_maps(side).values())).to(dtype)


def check(cases: list[dict[str, Any]], results: list[Any]) -> None:
    for given, found in zip(cases, results, strict=True):
        maps, threshold = given["maps"], given["threshold"]
        cuts = threshold if isinstance(threshold, Tensor) else torch.full((len(maps),), threshold, dtype=torch.float64)
        expected = plain_entropy(maps, cuts, given["connectivity"], given["with_gradient"])
        for one, other in zip(found, expected, strict=True):
            within = 1e-11 if maps.dtype == torch.float64 else 1e-5
            torch.testing.assert_close(one, other, rtol=0, atol=within)


FEW = [
    case(nasty(5, torch.float64), 0.0, 4),
    case(nasty(5, torch.float32), 0.0, 8),
    case(drawn(2, 14, 14).float(), 0.36, 8),
    case(drawn(2, 14, 14).float(), 0.36, 4, with_gradient=False),
    case(drawn(1, 1, 9), -0.3, 8),
    case(drawn(1, 9, 1), -0.3, 8),
    case(drawn(1, 1, 1), 0.0, 8),
    case(drawn(1, 3, 32, seed=1), 0.3, 8),  # the highest bit of a word
    case(drawn(3, 4, 7, seed=2), torch.tensor([-0.3, 0.1, 2.0], dtype=torch.float64), 8),
]


def test_kernel_gives_what_plain_pytorch_gives(tmp_path: Path) -> None:
    check(FEW, interpreted(FEW, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("connectivity", [4, 8])
def test_kernel_gives_what_plain_pytorch_gives_on_nasty_and_on_random_maps(tmp_path: Path, connectivity: int) -> None:
    # The interpreter takes milliseconds an operation, and the floods of a checkerboard's pixels are many.
    winding = [f"{name}, uneven" for name in ("serpentine", "standing serpentine", "spiral", "comb", "upturned comb")]
    many = [case(nasty(7, torch.float32), 0.0, connectivity), case(nasty(6, torch.float64), 0.7, connectivity)]
    many += [case(torch.stack([nasty_maps(32)[name] for name in winding]).float(), 0.0, connectivity)]
    for maps, threshold in random_maps(seed=70 + connectivity, count=64):
        many.append(case(maps[clear_of_the_cut(maps, threshold, 1e-9)], threshold, connectivity))
    check(many, interpreted(many, tmp_path))


def test_larger_grids_are_refused_by_the_kernel() -> None:
    from pipeline.regularizers.kernels.entropy_triton import triton_entropy

    with pytest.raises(ValueError, match="a grid of 33 x 4 is beyond 32 x 32"):
        triton_entropy(torch.zeros(1, 33, 4), 0.0, 8, True)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_compiles_for_cuda_and_keeps_a_map_in_registers(capability: int) -> None:
    """The compiler needs no GPU. Spilled registers would show as a stack, in memory that every access waits for."""
    script = f"""
        import re, subprocess, sys, tempfile, triton
        from pathlib import Path
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from pipeline.regularizers.kernels import entropy_triton as kernel

        function = kernel._one_map
        for side in (16, 32):
            kinds = dict.fromkeys(function.arg_names, "constexpr") | dict(
                maps="*fp32", thresholds="*fp32", threshold="fp64", entropy="*fp32", empty="*i1", gradient="*fp32",
                height="i32", width="i32")
            chosen = dict(one_a_map=False, diagonal=True, with_gradient=True, nearly_constant=1e-4, tiny=kernel.TINY,
                height_block=side, width_block=side)
            options = dict(num_warps=side * side // kernel.PIXELS_OF_A_WARP, enable_fp_fusion=False)
            target = GPUTarget("cuda", {capability}, 32)
            built = triton.compile(ASTSource(function, kinds, constexprs=chosen), target=target, options=options)
            assert not re.search(r"\\b(atom|red)\\.", built.asm["ptx"])
            tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(built.asm["cubin"])
                file.flush()
                said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
            assert re.search(r"STACK:0 ", said), said
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)


# On a GPU.


@pytest.fixture
def on_gpu() -> Tensor:
    maps = torch.cat([nasty(14, torch.float32), drawn(500, 14, 14).float()]).cuda()
    return maps[clear_of_the_cut(maps.double(), 0.2, 1e-6) | ~maps.isfinite().all(-1).all(-1)]


def both(maps: Tensor, threshold: float, connectivity: int) -> tuple[Tensor, Tensor]:
    leaf = maps.clone().requires_grad_()
    value = spatial_entropy(leaf, threshold=threshold, connectivity=connectivity)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.gpu
@pytest.mark.parametrize("connectivity", [4, 8])
def test_gpu_gives_what_the_cpu_gives_and_the_same_bits_again(on_gpu: Tensor, connectivity: int) -> None:
    found, again, expected = (both(maps, 0.2, connectivity) for maps in (on_gpu, on_gpu, on_gpu.cpu()))
    for one, same, other in zip(found, again, expected, strict=True):
        assert torch.equal(one, same)
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_gpu_takes_larger_grids_by_the_plain_path() -> None:
    maps = drawn(4, 40, 24).float()
    for one, other in zip(both(maps.cuda(), 0.2, 8), both(maps, 0.2, 8), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_gpu_does_not_make_the_host_wait(on_gpu: Tensor) -> None:
    both(on_gpu, 0.2, 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        both(on_gpu, 0.2, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_value_and_gradient_are_captured_in_a_cuda_graph(on_gpu: Tensor) -> None:
    leaf = on_gpu.clone().requires_grad_()

    def work() -> tuple[Tensor, Tensor]:
        entropy, empty = entropy_and_empty(leaf, threshold=0.2)
        return entropy.detach(), torch.autograd.grad(entropy.sum() / (~empty).sum(), leaf)[0]

    graph, found = captured(work)
    other = drawn(*on_gpu.shape, seed=5).float().cuda()
    with torch.no_grad():
        leaf.copy_(other)
    graph.replay()
    for one, expected in zip(found, work(), strict=True):
        assert torch.equal(one, expected)
