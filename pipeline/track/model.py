"""What is registered: a classifier that MLflow can load with neither this repository nor Ray, DVC or Optuna at hand.

This file is a program, not a module to import: it is copied into every registered model and run when that is loaded
("models from code"). It needs mlflow, torch, timm, safetensors, numpy and pandas. With it travel two folders:

    checkpoint/  weights.safetensors; checkpoint.json: the network's settings, classes, image size, mean and std
    code/        the package of networks (`pipeline/models`) as it was when the weights were trained

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    model.predict(images)                              # (B, H, W, C) uint8; one row an image
    model.predict(images, params={"batch_size": 64})

Shapes: B images, H x W pixels, C channels.
"""

import hashlib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]
from safetensors.torch import load_file
from torch.nn.functional import interpolate

FORMAT = 1
BATCH_SIZE = 256


class ImageClassifier(PythonModel):
    """Preprocessing, network and class names in one: uint8 images in, named classes with probabilities out."""

    def load_context(self, context: Any) -> None:
        """Rebuild the network from the folders that `context.artifacts` names, on a GPU where there is one.

        Raises:
            ValueError: a checkpoint of a later format, or weights that do not belong to the network.
        """
        folder = Path(context.artifacts["checkpoint"])
        sidecar = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        if sidecar["format"] != FORMAT:
            raise ValueError(f"this model reads checkpoints of format {FORMAT}, not {sidecar['format']!r}")
        self.classes = [str(name) for name in sidecar["classes"]]
        self.channels = int(sidecar["channels"])
        self.image_size = (int(sidecar["image_size"][0]), int(sidecar["image_size"][1]))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mean, self.std = (
            torch.tensor(sidecar[key], dtype=torch.float32, device=self.device).view(1, self.channels, 1, 1)
            for key in ("mean", "std")
        )
        build = _load_package(Path(context.artifacts["code"]), "build")
        with torch.random.fork_rng(devices=[]):  # first weights are drawn at random: not from the caller's stream
            network = build.build_model(
                build.ModelConfig(**sidecar["model"]),
                num_classes=int(sidecar["num_classes"]),
                image_size=self.image_size,
                channels=self.channels,
            )
        try:
            network.load_state_dict(load_file(folder / "weights.safetensors"))
        except RuntimeError as error:
            raise ValueError(f"the weights do not belong to the network of checkpoint.json: {error}") from error
        self.network: torch.nn.Module = network.to(self.device).eval()

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify images, (B, H, W, C) uint8 or, for one channel, (B, H, W) uint8, of any height and width.

        params: `batch_size`, how many images go through the network at once.

        Returns one row an image: `name` of the most probable class, its `probability`, and `probabilities`, a mapping
        of every class to its probability.

        Raises:
            TypeError: not an array. ValueError: another type of number or shape, or a batch size below 1.
        """
        images = self._checked(model_input)
        batch_size = int((params or {}).get("batch_size", BATCH_SIZE))
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        rows: list[tuple[str, float, dict[str, float]]] = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                pixels = self._prepared(images[start : start + batch_size])
                for row in self.network(pixels).float().softmax(dim=1).cpu().tolist():
                    best = max(range(len(row)), key=row.__getitem__)
                    rows.append((self.classes[best], row[best], dict(zip(self.classes, row, strict=True))))
        return pd.DataFrame(rows, columns=["name", "probability", "probabilities"])

    def _checked(self, given: Any) -> np.ndarray:
        """The images as (B, H, W, C)."""
        wanted = f"give uint8 images as (B, H, W, {self.channels})"
        if not isinstance(given, np.ndarray):
            raise TypeError(f"{wanted}, as a numpy array, not a {type(given).__name__}")
        images: np.ndarray = given
        if images.dtype != np.uint8:
            raise ValueError(f"{wanted}, with values 0 to 255, not {images.dtype}")
        if images.ndim == 3 and self.channels == 1:
            images = images[..., None]
        if images.ndim != 4 or images.shape[-1] != self.channels or 0 in images.shape[1:]:
            raise ValueError(f"{wanted}, not {images.shape}; a single image needs a batch axis: image[None]")
        return images

    def _prepared(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, C) uint8 to (B, C, *image_size) float: scaled to 0..1, resized, standardised by channel."""
        pixels = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float() / 255
        size = (pixels.shape[2], pixels.shape[3])
        if size != self.image_size:
            shrinks = size[0] > self.image_size[0] or size[1] > self.image_size[1]
            pixels = interpolate(pixels, self.image_size, mode="bilinear", antialias=shrinks)
        return (pixels - self.mean) / self.std


def _load_package(folder: Path, module: str) -> ModuleType:
    """A module of the package in `folder`, imported under a name that no other package or version has.

    The name comes from the folder's path and content, so two versions of a model, each with its own code, live side by
    side in one process, beside an installed package of the same origin. The package's own imports are relative.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    name = f"registered_network_{digest.hexdigest()[:16]}"
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # the folder belongs to the registry, which must not change by being read
    try:
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(
                name, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
            assert spec is not None
            assert spec.loader is not None
            package = importlib.util.module_from_spec(spec)
            sys.modules[name] = package
            try:
                spec.loader.exec_module(package)
            except BaseException:
                del sys.modules[name]
                raise
        return importlib.import_module(f"{name}.{module}")
    finally:
        sys.dont_write_bytecode = writes


set_model(ImageClassifier())
