"""Claims about running out of memory: it is told apart from other errors, and the advice names what can be changed."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.small_networks import network
from torch import nn

from pipeline.train.memory import checkpointed, is_out_of_memory, out_of_memory_advice
from pipeline.train.train_config import TrainConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECIPE = TrainConfig(4, 64, 1e-3, 0.0, 1, 0.1, 0.0, None)

STARVED = """
import re, resource, sys
import numpy, torch
from pipeline.train.memory import is_out_of_memory

torch.set_num_threads(1)
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
kinds = {
    "torch": lambda: torch.ones(2**28, dtype=torch.uint8),
    "numpy": lambda: numpy.ones(2**28, dtype=numpy.uint8),
    "python": lambda: bytearray(2**28),
}
try:
    kinds[sys.argv[1]]()
except Exception as error:
    print(next(kind for kind in (MemoryError, RuntimeError) if isinstance(error, kind)).__name__, is_out_of_memory(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space, as Linux allows")
@pytest.mark.parametrize(("kind", "said"), [("torch", "RuntimeError"), ("numpy", "MemoryError"), ("python", "MemoryError")])  # fmt: skip
def test_real_allocation_beyond_the_limit_of_a_process_is_recognised(kind: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", STARVED, kind], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([said, "True"], "")


SEARCHES = """
import gc, torch
from support.tiny_runs import CONFIG, images, network, sar
from pipeline.train.loop import fit

begun = [0]
gc.callbacks.append(lambda phase, info: begun.__setitem__(0, begun[0] + (phase == "start")))
run = fit(network(), images(8 * 60), CONFIG, val=images(8), regularizers=sar(0.1), seed=0)
next(run)
before = begun[0]
next(run)
print(begun[0] - before, gc.get_threshold()[0])
gc.set_threshold(0)
next(fit(network(), images(8), CONFIG, seed=0))
print(gc.get_threshold()[0])
"""


def test_steps_do_not_have_python_search_for_garbage_that_they_do_not_make() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEARCHES], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "tests"}
    )
    assert (done.stdout.splitlines(), done.stderr) == (["0 10000", "0"], "")


@pytest.mark.gpu
def test_real_allocation_beyond_a_gpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(refused.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
)
def test_lack_of_memory_is_recognised_in_every_form(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        ValueError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_advice_names_what_took_the_memory_and_what_to_change() -> None:
    assert out_of_memory_advice(RECIPE, device=CUDA, gpus=0.25) == (
        "A training step on a batch of 64 images (train.batch_size 64) did not fit into 25% of a GPU "
        "(search.gpus_per_trial 0.25). Set train.accumulate to 2, which holds fewer images at a time and takes the "
        "same steps; set train.grad_checkpointing to true, which takes more time for the same steps; set train.precision "
        "to bfloat16; lower train.batch_size; take a smaller network (model.name, model.kwargs) or smaller images "
        "(prepare.image_size); or raise search.gpus_per_trial, so that fewer trials share a GPU."
    )


def test_advice_on_a_whole_gpu_does_not_ask_for_more_of_it() -> None:
    said = out_of_memory_advice(RECIPE, device=CUDA, gpus=1.0)
    assert "did not fit into the GPU." in said
    assert "search." not in said


def test_advice_on_a_cpu_is_to_run_fewer_trials_at_a_time() -> None:
    said = out_of_memory_advice(RECIPE, device=CPU, gpus=0.0)
    assert "the memory of this machine" in said
    assert said.endswith("or let fewer trials run at a time (search.max_concurrent_trials).")


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "said"),
    [
        (64, 3, "in micro-batches of 22 (train.accumulate 3) did not"),
        (64, 3, "Set train.accumulate to 6,"),
        (5, 4, "Set train.accumulate to 5,"),
        (200, 48, "Set train.accumulate to 64,"),
        (5, 5, "Lower train.batch_size;"),
        (200, 64, "Lower train.batch_size;"),
        (1, 1, "Take a smaller network"),
    ],
)
def test_advice_goes_only_as_far_as_a_batch_can_be_cut(batch_size: int, accumulate: int, said: str) -> None:
    lean = replace(RECIPE, grad_checkpointing=True, precision="bfloat16")
    config = replace(lean, batch_size=batch_size, accumulate=accumulate)
    assert said in out_of_memory_advice(config, device=CUDA, gpus=1.0)


def test_advice_names_what_computes_again_or_halves_only_while_it_is_off() -> None:
    spared = replace(RECIPE, grad_checkpointing=True)
    assert "train.grad_checkpointing" not in out_of_memory_advice(spared, device=CUDA, gpus=1.0)
    assert "train.precision" in out_of_memory_advice(spared, device=CUDA, gpus=1.0)
    halved = replace(RECIPE, precision="bfloat16")
    assert "train.precision" not in out_of_memory_advice(halved, device=CUDA, gpus=1.0)
    assert "train.precision" not in out_of_memory_advice(RECIPE, device=CPU, gpus=0.0)


def test_checkpointing_of_gradients_is_on_inside_alone_and_refused_where_it_cannot_be() -> None:
    model: Any = network()
    with checkpointed(model, True):
        assert model.grad_checkpointing
    assert not model.grad_checkpointing
    with pytest.raises(ZeroDivisionError), checkpointed(model, True):
        raise ZeroDivisionError
    assert not model.grad_checkpointing
    refused = r"^train\.grad_checkpointing: Linear has no blocks that can be computed again; set it to false"
    with pytest.raises(ValueError, match=refused), checkpointed(nn.Linear(2, 2), True):
        pass
    with checkpointed(nn.Linear(2, 2), False):
        pass


KEPT = """
import resource, sys, torch
from pipeline.train.memory import retain_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert retain_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(48 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_memory_of_tensors_is_kept_between_steps() -> None:
    counts = {}
    for how in ("kept", "given back"):
        ended = subprocess.run([sys.executable, "-c", KEPT, how], capture_output=True, text=True)
        if "AssertionError" in ended.stderr:
            pytest.skip("this C library is not glibc")
        counts[how] = int(ended.stdout)
    # Tensors larger than what glibc would ever keep by itself; with huge pages, each has 24 of them.
    assert counts["kept"] < 100 < counts["given back"]
