"""Packing of a checkpoint as an MLflow model, with `model.py` as its program, and weights and network code as
artifacts.

Every packed model is tested before it is uploaded: it is loaded from the finished folder and classifies an example.
"""

import ast
import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, Map

from pipeline.data.decode import pictures
from pipeline.errors import UserError
from pipeline.train.sidecar import SIDECAR, WEIGHTS, Sidecar, read_sidecar

PROGRAM = Path(__file__).with_name("model.py")
PICTURES = Path(pictures.__file__)
REQUIRED = ("mlflow", "torch", "torchvision", "timm", "safetensors", "pillow", "numpy", "pandas")
"""Packages that a registered model may import beside the standard library, pinned to the versions installed here."""

WITH_TORCH = ("triton",)
"""Packages that come with some builds of torch only; network code checks for them before it imports them."""

EXAMPLES = 2
"""Number of images that are stored as the input example, as JSON."""

SIGNATURE = ModelSignature(
    # This type stands for arrays of any size, and for arrays of picture files, text and lists, as in requests. MLflow
    # does not check it; the program checks every image by itself.
    inputs=Schema([TensorSpec(np.dtype("O"), (-1,))]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "name", required=False),
            ColSpec(DataType.double, "probability", required=False),
            ColSpec(Map(DataType.double), "probabilities", required=False),
            ColSpec(DataType.string, "error", required=False),
            ColSpec(Array(Array(DataType.double)), "attention", required=False),
        ]
    ),
    params=ParamSchema([ParamSpec("batch_size", DataType.long, 256), ParamSpec("attention", DataType.boolean, False)]),
)


def hash_model(checkpoint: Path, code: Path) -> str:
    """Returns the SHA-256 over everything that determines a model's answers: weights, sidecar, network code,
    `model.py`, `pictures.py`.
    """
    return _hash(checkpoint, code, PROGRAM, PICTURES)


def hash_packed(folder: Path) -> str:
    """Returns `hash_model` of the model that `pack` wrote to a folder, computed from the folder's present content.

    Raises:
        UserError: its checkpoint is no longer valid.
        OSError: a file is missing.
    """
    artifacts = folder / "artifacts"
    return _hash(artifacts / "checkpoint", artifacts / "code", folder / PROGRAM.name, artifacts / PICTURES.name)


def _hash(checkpoint: Path, code: Path, program: Path, reader: Path) -> str:
    """Returns the SHA-256 over the parts of a model.

    Args:
        checkpoint: folder with weights and sidecar.
        code: folder of the network code.
        program: the file `model.py`.
        reader: the file `pictures.py`.

    Raises:
        UserError: the checkpoint cannot be registered.
        OSError: a file is missing.
    """
    digest = hashlib.sha256()
    parts = [(SIDECAR, json.dumps(_check_registrable(checkpoint), sort_keys=True).encode()), ("", program.read_bytes())]
    parts.append(("", reader.read_bytes()))
    parts += [(file.relative_to(code).as_posix(), file.read_bytes()) for file in _sources(code)]
    for label, content in parts:
        digest.update(f"{label}\0{len(content)}\0".encode() + content)
    with (checkpoint / WEIGHTS).open("rb") as weights:
        while chunk := weights.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_registrable(checkpoint: Path) -> Sidecar:
    """Checks that a checkpoint can be registered, and returns its sidecar.

    Raises:
        UserError: a file is missing, or the sidecar's fields do not fit together.
    """
    try:
        sidecar = read_sidecar(checkpoint)
        if not (checkpoint / WEIGHTS).is_file():
            raise FileNotFoundError(f"there is no {WEIGHTS}")
        # The names become the keys of a mapping, so a repeated name would lose a probability.
        if len(set(sidecar["classes"])) != sidecar["num_classes"]:
            raise ValueError(f"{sidecar['num_classes']} classes, but {len(set(sidecar['classes']))} different names")
        channels, sides = sidecar["channels"], len(sidecar["image_size"])
        lengths = (
            ("mean", len(sidecar["mean"]), channels),
            ("std", len(sidecar["std"]), channels),
            ("image_size", sides, 2),
        )
        for key, length, needed in lengths:
            if length != needed:
                raise ValueError(f"{key} has {length} values instead of {needed}")
    except KeyError as error:
        raise UserError(f"{checkpoint / SIDECAR} lacks {error}; it cannot be registered") from None
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"{checkpoint} is not a checkpoint that can be registered: {error}") from None
    return sidecar


def require_portable(code: Path) -> None:
    """Checks that network code imports nothing that a registered model lacks.

    A forbidden import works in this process; without this check, the model would fail to load elsewhere.

    Raises:
        UserError: an import that a registered model lacks. The message names the file, the line and the import.
    """
    for name in ("__init__.py", "build.py"):
        if not (code / name).is_file():
            raise UserError(f"{code} is not the package of networks: it has no {name}")
    allowed = {*sys.stdlib_module_names, *REQUIRED, *WITH_TORCH, "PIL"}
    for file in _sources(code):
        depth = len(file.relative_to(code).parts)
        for node in ast.walk(ast.parse(file.read_bytes())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.partition(".")[0] not in allowed]
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                outside = node.level > depth if node.level else module.partition(".")[0] not in allowed
                names = ["." * node.level + module] if outside else []
            if names:
                raise UserError(
                    f"{file}, line {getattr(node, 'lineno', 0)} imports {names[0]}, which a registered model lacks\n"
                    f"  networks may import each other (relatively), Python's own library, PIL, {', '.join(REQUIRED)}"
                )


def pack(
    folder: Path,
    identity: Model,
    *,
    checkpoint: Path,
    code: Path,
    model_card: str,
    input_example: "np.ndarray[Any, Any]",
) -> None:
    """Writes the MLflow model to a folder and tests it.

    Args:
        folder: destination, which must not exist yet.
        identity: the MLflow model's ids.
        checkpoint: folder with weights and sidecar.
        code: folder of the network code.
        model_card: the model card, in Markdown.
        input_example: images, (B, H, W, C) uint8.

    Raises:
        UserError: the model cannot be loaded or does not classify the example.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's first import warns about its own type hints
        from mlflow import pyfunc

    example = np.ascontiguousarray(input_example[:EXAMPLES])
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        (staged / "checkpoint").mkdir()
        for name in (WEIGHTS, SIDECAR):
            shutil.copy2(checkpoint / name, staged / "checkpoint" / name)
        for file in _sources(code):  # only source files: no caches, no editor's files
            target = staged / "code" / file.relative_to(code)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        (staged / "README.md").write_text(model_card, encoding="utf-8")
        pyfunc.save_model(
            path=str(folder),
            python_model=str(PROGRAM),
            artifacts={
                "checkpoint": str(staged / "checkpoint"),
                "code": str(staged / "code"),
                "pictures": str(PICTURES),
                "model_card": str(staged / "README.md"),
            },
            mlflow_model=identity,
            signature=SIGNATURE,
            input_example=example,
            # The local part of a version, as in 2.15.0+cpu, names a build that a package index does not have.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED],
        )
    try:
        answer = pyfunc.load_model(str(folder)).predict(example)
        if len(answer) != len(example) or not np.isfinite(answer["probability"]).all():
            raise ValueError(f"{len(example)} images gave {len(answer)} answers, or answers that are no numbers")
    except Exception as error:  # the network's code may raise anything
        raise UserError(
            f"{checkpoint}: no version was registered, because the model packed from it does not load, or does not "
            f"classify example images: {error}"
        ) from error


def _sources(code: Path) -> Iterator[Path]:
    """Returns the Python files of a folder, sorted by path."""
    return iter(sorted(code.rglob("*.py")))
