"""The program of a registered model, loaded as MLflow loads it, with images and a small network for it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline.tracking.registry.model import ImageClassifier
from pipeline.tracking.registry.package import PICTURES


def load(checkpoint: Path, code: Path) -> ImageClassifier:
    classifier = ImageClassifier()
    artifacts = {"checkpoint": str(checkpoint), "code": str(code), "pictures": str(PICTURES)}
    classifier.load_context(SimpleNamespace(artifacts=artifacts))
    return classifier


def images(count: int = 5, height: int = 12, width: int = 12, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def write_network(folder: Path, shift: float) -> Path:
    """A package of networks in two modules; `shift` is what one version adds to the first class."""
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "shift.py").write_text(f"SHIFT = {shift}\n")
    (folder / "build.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from .shift import SHIFT\n"
        "@dataclass(frozen=True)\n"
        "class ModelConfig:\n"
        "    name: str\n"
        "    kwargs: dict\n"
        "    init: str\n"
        "    drop_path: float\n"
        "class Network(torch.nn.Linear):\n"
        "    def forward(self, pixels):\n"
        "        return super().forward(pixels.flatten(1)) + torch.tensor([SHIFT, 0.0, 0.0])\n"
        "def build_model(config, *, num_classes, image_size, channels):\n"
        "    return Network(image_size[0] * image_size[1] * channels, num_classes)\n"
    )
    return folder
