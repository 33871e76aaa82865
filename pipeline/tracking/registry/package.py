"""Packing a checkpoint as an MLflow model: `model.py` as its program, weights and network code as its artifacts.

What is packed has been tried: it is loaded from the finished folder and classifies an example before anyone gets it.
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
"""What a registered model may import beside Python's own library, each pinned to the version installed here."""

WITH_TORCH = ("triton",)
"""What comes with some builds of torch, and what network code therefore looks for before it imports it."""

EXAMPLES = 2
"""Images of the input example that are kept, as JSON."""

SIGNATURE = ModelSignature(
    # One name for arrays of any size, and for arrays of picture files, text and lists, as requests bring them: MLflow
    # checks nothing of this type, and the program checks every image by itself.
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
    """SHA-256 over all that decides a model's answers: weights, settings, network code, `model.py`, `pictures.py`."""
    return _hash(checkpoint, code, PROGRAM, PICTURES)


def hash_packed(folder: Path) -> str:
    """`hash_model` of the model that `pack` wrote to a folder, as it is there now.

    Raises:
        UserError: its checkpoint is none any more.
        OSError: a file is missing.
    """
    artifacts = folder / "artifacts"
    return _hash(artifacts / "checkpoint", artifacts / "code", folder / PROGRAM.name, artifacts / PICTURES.name)


def _hash(checkpoint: Path, code: Path, program: Path, reader: Path) -> str:
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
    """What a checkpoint says of itself, once it is known that it can be registered.

    Raises:
        UserError: a file is missing, or the settings do not fit together.
    """
    try:
        sidecar = read_sidecar(checkpoint)
        if not (checkpoint / WEIGHTS).is_file():
            raise FileNotFoundError(f"there is no {WEIGHTS}")
        # The names become the keys of a mapping: a repeated one would swallow a probability.
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
    """Refuse network code that needs more than a registered model may ask for.

    Found here, because in this process such imports work, and elsewhere the model would not load.

    Raises:
        UserError: names the file, the line and the import.
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
    """Write the MLflow model to `folder`, which must not exist yet, and try it.

    identity: the MLflow model's ids; input_example: (B, H, W, C) uint8.

    Raises:
        UserError: it cannot be loaded or does not classify the example.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow, when first imported, warns of its own type hints
        from mlflow import pyfunc

    example = np.ascontiguousarray(input_example[:EXAMPLES])
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        (staged / "checkpoint").mkdir()
        for name in (WEIGHTS, SIDECAR):
            shutil.copy2(checkpoint / name, staged / "checkpoint" / name)
        for file in _sources(code):  # and nothing else: no caches, no editor's leavings
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
            # A local part, as in 2.15.0+cpu, names a build that a package index does not have.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED],
        )
    try:
        answer = pyfunc.load_model(str(folder)).predict(example)
        if len(answer) != len(example) or not np.isfinite(answer["probability"]).all():
            raise ValueError(f"{len(example)} images gave {len(answer)} answers, or answers that are no numbers")
    except Exception as error:  # whatever the network's code raises: the user's question is the same
        raise UserError(f"the model made of {checkpoint} cannot be used: {error}") from error


def _sources(code: Path) -> Iterator[Path]:
    return iter(sorted(code.rglob("*.py")))
