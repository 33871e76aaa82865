"""Counts of the parameters of the networks of a search's configurations, before any of them is trained."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict

import torch

from pipeline.config import Params, Values
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig

MODEL = "model."
"""Beginning of the dotted paths that decide a network."""


def parameter_counter(params: Params, *, num_classes: int, channels: int) -> Callable[[Values], int]:
    """Returns a function that counts the weights of the network which a configuration describes.

    The function takes values by dotted path, and uses those that begin with `model.`. Values that are not given come
    from `params`. It builds equal networks only once. It returns 0 for a network that cannot be built; its trial
    reports the error.

    Args:
        params: All parameters of the search, with the network's other values and the image size.
        num_classes: Number of classes.
        channels: Number of image channels.
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
    """Returns the number of parameters of a network on torch's meta device, where it takes no memory; 0 if it
    is invalid.

    Args:
        config: The network.
        num_classes: Number of classes.
        side: Side of the square images, in pixels.
        channels: Number of image channels.
    """
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # a network without pretrained weights warns
        try:
            model = build_model(config, num_classes=num_classes, image_size=(side, side), channels=channels)
        except ValueError:
            return 0
    return sum(each.numel() for each in model.parameters())
