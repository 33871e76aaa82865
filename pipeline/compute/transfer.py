"""Arrays on their way from the host to a device, without a wait of the host for the device's queued work."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def send(array: NDArray[Any], device: torch.device) -> Tensor:
    """Returns a host's array on a device; a GPU fetches it when its queue reaches that place.

    The array is copied into pinned memory first: a copy from other memory makes the host wait until all work that
    was queued before is done. torch reuses the pinned memory once the GPU has read it.

    Args:
        array: The array. On a CPU the result shares its memory.
        device: Device of the result.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
