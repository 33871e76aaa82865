"""Program of every registered model: a classifier that MLflow loads without this repository, Ray, DVC or Optuna.

This file is a program, not a module to import. It is copied into every registered model and run when the
model is loaded ("models from code"). It needs mlflow, torch, timm, safetensors, pillow, numpy and pandas.
These files are part of the registered model:

    checkpoint/  weights.safetensors; checkpoint.json: the network's options, classes, image size, mean and std
    code/        the package of networks (`pipeline/models`) as it was when the weights were trained
    pictures.py  reads a picture file into pixels, as for the training images

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    model.predict(images)                              # (B, H, W, C) uint8; one row an image
    model.predict(np.array([file.read_bytes()], dtype=object))    # picture files, or their base64 text
    model.predict(images, params={"batch_size": 64, "attention": True})

Shapes: B images, H x W pixels, C channels.
"""

import hashlib
import importlib
import importlib.util
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
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
    """Classifier with its preprocessing and class names: uint8 images in, named classes with probabilities out."""

    def load_context(self, context: Any) -> None:
        """Builds the network from the folders in `context.artifacts`, on a GPU if there is one.

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
        self.bit_depth = sidecar.get("bit_depth")  # of grey pictures of more than 8 bits; None: that of each file
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mean, self.std = (
            torch.tensor(sidecar[key], dtype=torch.float32, device=self.device).view(1, self.channels, 1, 1)
            for key in ("mean", "std")
        )
        self.code = Path(context.artifacts["code"])
        self.pictures = _load_file(Path(context.artifacts["pictures"]))
        build = _load_package(self.code, "build")
        with torch.random.fork_rng(
            devices=[]
        ):  # fresh weights are drawn at random, and must not change the caller's stream
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
        self.lock = Lock()  # a server has several threads, and a tap would also read another thread's pass

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classifies images of any size.

        Args:
            context: unused; MLflow passes it.
            model_input: (B, H, W, C) uint8 or, for one channel, (B, H, W), or one image (H, W, C). An array
                of objects, as made from JSON, may mix arrays of numbers with picture files (bytes, base64
                text). An element that is no image gets an `error` in its row; the others are classified.
            params: `batch_size`, the images per forward pass; `attention`, whether each row gets a map. None:
                the defaults.

        Returns:
            One row an image: `name` of the most probable class, its `probability`, `probabilities` (a mapping of every
            class to its probability), and `error` (None if there is none). If requested, `attention` is the last
            block's attention on the patches: rows of numbers that add up to 1, the mean of the heads.

        Raises:
            TypeError: the input is not an array.
            ValueError: another type of number or shape, a batch size below 1, or a network without such maps.
        """
        images = self._checked(model_input)
        batch_size = int((params or {}).get("batch_size", BATCH_SIZE))
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        attends = bool((params or {}).get("attention", False))
        rows: list[dict[str, Any]] = []
        with self.lock, torch.inference_mode(), self._tap() if attends else nullcontext() as tap:
            for start in range(0, len(images), batch_size):
                rows += self._answers(images[start : start + batch_size], tap)
        columns = ["name", "probability", "probabilities", "error", *["attention"] * attends]
        # With dtype object, None stays None. Among numbers it would become NaN, which JSON does not have.
        whole = all(row["error"] is None for row in rows)
        return pd.DataFrame(rows, columns=columns, dtype=None if whole else object)

    def _answers(self, batch: np.ndarray, tap: Any) -> list[dict[str, Any]]:
        """Returns a row for each image of a batch.

        The batch is (B, H, W, C) uint8, or (B,) objects, some of which may be no image.
        """
        rows: list[dict[str, Any]] = [
            {"name": None, "probability": None, "probabilities": None, "error": None, "attention": None} for _ in batch
        ]
        if batch.dtype == np.uint8:
            good, pixels = list(range(len(batch))), self._prepared(batch)
        else:
            good, prepared = [], []
            for place, given in enumerate(batch):
                try:
                    read = self.pictures.read_image(given, self.channels, self.image_size[0], self.bit_depth)
                except self.pictures.UndecodableImage as error:
                    rows[place]["error"] = str(error)
                else:
                    good.append(place)
                    prepared.append(self._prepared(read[None]))
            if not good:
                return rows
            pixels = torch.cat(prepared)
        shares = self.network(pixels).float().softmax(dim=1).cpu().tolist()
        maps = None
        if tap is not None:
            found = tap.maps()[:, 0].float()
            maps = found.flatten(2).softmax(dim=2).mean(dim=1).reshape(len(found), *found.shape[2:]).cpu().tolist()
        for order, place in enumerate(good):
            share = shares[order]
            best = max(range(len(share)), key=share.__getitem__)
            rows[place] |= {"name": self.classes[best], "probability": share[best]}
            rows[place]["probabilities"] = dict(zip(self.classes, share, strict=True))
            rows[place]["attention"] = None if maps is None else maps[order]
        return rows

    def _tap(self) -> Any:
        """Returns a tap on the network's last block.

        Raises:
            ValueError: the network has no similarity maps.
        """
        try:
            tap, architecture = (_load_package(self.code, name) for name in ("tap", "architecture"))
            return tap.SimilarityTap(self.network, "last", architecture.describe_network(self.network).query)
        except (ValueError, ModuleNotFoundError) as error:
            raise ValueError(f"this model has no attention maps ({error}); ask without attention") from None

    def _checked(self, given: Any) -> np.ndarray:
        """Returns the images as (B, H, W, C) uint8, or as (B,) objects that are still to be read.

        Raises:
            TypeError: the input is not an array.
            ValueError: another type of number or shape.
        """
        wanted = f"give uint8 images as (B, H, W, {self.channels})"
        if not isinstance(given, np.ndarray):
            raise TypeError(f"{wanted}, as a numpy array, not a {type(given).__name__}")
        images: np.ndarray = given
        if images.dtype.kind in "OSU":
            return self._listed(images)
        if images.dtype != np.uint8:
            raise ValueError(f"{wanted}, with values 0 to 255, not {images.dtype}")
        if images.ndim == 3:
            images = images[None] if images.shape[-1] == self.channels else images[..., None]
        if images.ndim != 4 or images.shape[-1] != self.channels or 0 in images.shape[1:]:
            raise ValueError(f"{wanted}, not {given.shape}; a single image needs a batch axis: image[None]")
        return images

    def _listed(self, given: np.ndarray) -> np.ndarray:
        """Returns (B,) objects, one per image.

        From a nested list whose parts have equal lengths, numpy makes one array of all levels, which is split here.
        """
        alone = given.ndim == 0 or (given.ndim == 3 and given.shape[-1] == self.channels)
        images = np.empty(1 if alone else len(given), dtype=object)
        for place in range(len(images)):
            images[place] = (given.item() if given.ndim == 0 else given) if alone else given[place]
        return images

    def _prepared(self, images: np.ndarray) -> torch.Tensor:
        """Returns (B, H, W, C) uint8 images as (B, C, *image_size) float: scaled to 0..1, resized,
        standardised by channel.
        """
        pixels = torch.from_numpy(np.array(images)).to(self.device).permute(0, 3, 1, 2).float() / 255
        size = (pixels.shape[2], pixels.shape[3])
        if size != self.image_size:
            shrinks = size[0] > self.image_size[0] or size[1] > self.image_size[1]
            pixels = interpolate(pixels, self.image_size, mode="bilinear", antialias=shrinks)
        return (pixels - self.mean) / self.std


def _load_package(folder: Path, module: str) -> ModuleType:
    """Returns a module of the package in `folder`, imported under a name that no other package or version has.

    The name comes from the folder's path and content. Two versions of a model, each with its own code, and an
    installed package of the same origin can therefore be used in one process. The package's own imports are relative.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    name = f"registered_network_{digest.hexdigest()[:16]}"
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # the folder belongs to the registry, and loading must not add files to it
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


def _load_file(path: Path) -> ModuleType:
    """Returns a module made from one file; it is run again for every model, and is not in `sys.modules`."""
    module = ModuleType(path.stem)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


set_model(ImageClassifier())
