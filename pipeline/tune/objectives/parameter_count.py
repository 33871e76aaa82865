"""The parameters of the networks that a search's configurations ask for, before any of them is trained."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict

import torch

from pipeline.config import Params, Values
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig

MODEL = "model."


def parameter_counter(params: Params, *, num_classes: int, channels: int) -> Callable[[Values], int]:
    """A function from a configuration, by dotted path, to the number of its network's parameters. Equal networks are
    counted once. A network that cannot be built, which its trial will say of itself, has 0.
    """
    known: dict[str, int] = {}

    def count(values: Values) -> int:
        own = {path: value for path, value in values.items() if path.startswith(MODEL)}
        config = params.with_values(own, where="a configuration").model.config()
        key = json.dumps(asdict(config), sort_keys=True, default=str)
        if key not in known:
            known[key] = _parameters(config, num_classes, params.prepare.image_size, channels)
        return known[key]

    return count


def _parameters(config: ModelConfig, num_classes: int, side: int, channels: int) -> int:
    """Of a network on torch's meta device, where it has shapes and takes no memory."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # of a network without weights
        try:
            model = build_model(config, num_classes=num_classes, image_size=(side, side), channels=channels)
        except ValueError:
            return 0
    return sum(each.numel() for each in model.parameters())
