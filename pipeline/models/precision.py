"""Regions of code in which half precision would lose the differences that matter."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context in which autocast is off on a device.

    If autocast is off already, or on the meta device, which has no autocast, the context does nothing.
    Turning it off again would take a noticeable part of a small training step.

    Args:
        device: device of the computation; the meta device holds networks that are tried without weights.
    """
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
