"""GPUs of this machine, and the default share of one run."""


def machine_gpus(device: str) -> int:
    """Returns the number of GPUs that a run may use on this machine.

    Args:
        device: `base.device`. With `cpu`, the result is 0.
    """
    import torch

    return 0 if device == "cpu" else torch.cuda.device_count()


def default_gpus(asked: float | None, there: int) -> float:
    """Returns the GPUs that one run takes.

    Args:
        asked: the share that the parameters ask for, or None for the default.
        there: GPUs of this machine or cluster. The default is one whole GPU where there is any, otherwise 0.
    """
    return float(asked) if asked is not None else float(there > 0)
