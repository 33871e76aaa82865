"""What this machine has, and what a run takes of it."""


def machine_gpus(device: str) -> int:
    """GPUs that a run may use: none when `base.device` is cpu."""
    import torch

    return 0 if device == "cpu" else torch.cuda.device_count()


def default_gpus(asked: float | None, there: int) -> float:
    """The share of a GPU of one run: what was asked for, else a whole one where there is any."""
    return float(asked) if asked is not None else float(there > 0)
