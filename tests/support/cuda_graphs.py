"""CUDA graphs of what a test computes."""

from collections.abc import Callable
from typing import TypeVar

import torch

Found = TypeVar("Found")


def captured(work: Callable[[], Found]) -> tuple[torch.cuda.CUDAGraph, Found]:
    """A graph of some work, and the tensors in which a replay leaves what it gives; run a few times before, aside."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()
    return graph, found
