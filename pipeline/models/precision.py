"""Where half precision would drown what matters."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Autocast off on a device; the meta device, on which networks are tried without weights, has none to turn off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
