"""Export of a registered model as one ONNX file, checked against torch: uint8 images in, probabilities out.

The file contains the preprocessing of arrays (scaling, standardisation) and the softmax. Images must have the model's
own size. The file's metadata has the names of the classes, in the order of the probabilities, as `classes`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.files.atomic import replace_file
from pipeline.tracking.registry.loading import load_registered
from pipeline.tracking.store import Store

TOLERANCE = 1e-4
INSTALL = "install them into the environment: pip install -e '.[onnx]'"


class PredictionModule(nn.Module):
    """A network between its preprocessing and its softmax: (B, H, W, C) uint8 -> (B, classes) float32.

    Args:
        network: the network.
        mean: mean of each channel, (1, C, 1, 1).
        std: standard deviation of each channel, (1, C, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        answers: Tensor = self.network((pixels - self.mean) / self.std)
        return answers.softmax(dim=1)


def graph_of(classifier: Any) -> tuple[Any, Tensor]:
    """Returns the exported graph of a registered `ImageClassifier`, for any number of images, and the images
    of the export.

    Raises:
        UserError: torch cannot export this network.
    """
    answering = PredictionModule(classifier.network.cpu(), classifier.mean.cpu(), classifier.std.cpu()).eval()
    height, width = classifier.image_size
    draw = np.random.default_rng(0).integers(0, 256, (3, height, width, classifier.channels), dtype=np.uint8)
    images = torch.from_numpy(draw)
    try:
        with torch.inference_mode(False), torch.no_grad():
            batch = {"images": {0: torch.export.Dim("batch")}}
            return torch.export.export(answering, (images,), dynamic_shapes=batch), images
    except Exception as error:  # torch.export may raise anything
        raise UserError(f"this network cannot be exported: {str(error).strip().splitlines()[0][:200]}") from error


def export_onnx(store: Store, name: str, version: int, file: Path) -> str:
    """Writes a version to an ONNX file, and returns a sentence on how the file was checked.

    Args:
        store: the tracking store.
        name: name of the registered model.
        version: number of the version.
        file: the file to write.

    Raises:
        UserError: onnx or onnxscript is not installed, the network cannot be exported, the file cannot be
            written, or its probabilities differ from torch's (no file is left then).
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch needs it for the export
    except ImportError as error:
        raise UserError(f"--onnx needs the packages onnx and onnxscript ({error})\n  {INSTALL}") from None
    classifier = load_registered(store, name, version).unwrap_python_model()
    graph, images = graph_of(classifier)
    try:
        with replace_file(file) as partial:
            torch.onnx.export(
                graph,
                f=str(partial),
                dynamo=True,
                external_data=False,
                input_names=["images"],
                output_names=["probabilities"],
                verbose=False,
            )
            model = onnx.load(str(partial))
            onnx.checker.check_model(model)
            described = {"classes": json.dumps(classifier.classes), "model": f"models:/{name}/{version}"}
            for key, value in described.items():
                model.metadata_props.add(key=key, value=value)
            onnx.save(model, str(partial))
            return _compared(partial, graph.module(), images)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from None


def _compared(file: Path, torch_module: Any, images: Tensor) -> str:
    """Compares the file's probabilities with torch's, on a batch and on one image, and returns a sentence on
    the result.

    Args:
        file: the ONNX file.
        torch_module: the exported graph.
        images: (B, H, W, C) uint8.

    Raises:
        UserError: the probabilities differ.
    """
    try:
        import onnxruntime
    except ImportError:
        return f"not checked against torch: onnxruntime is not installed; {INSTALL}"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    with torch.no_grad():
        for some in (images, images[:1]):
            (found,) = session.run(["probabilities"], {"images": some.numpy()})
            worst = max(worst, float(np.abs(found - torch_module(some).numpy()).max()))
    if not worst <= TOLERANCE:
        raise UserError(f"the exported file's probabilities differ from torch's by {worst:.2g}; no file was written")
    return f"checked with onnxruntime: probabilities are torch's to {worst:.1g}"
