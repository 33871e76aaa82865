"""Where half precision would drown what matters."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Autocast off on a device where it is on; turning off what is not on would cost a small step its share.

    The meta device, on which networks are tried without weights, has none to turn off.
    """
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
