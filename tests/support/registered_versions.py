"""A checkout with versions in a real registry, whose networks answer as a test wishes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.data.splits.split import Split, write_split
from pipeline.errors import GateRefused
from pipeline.promotion.promote import promote_challenger
from pipeline.state.looks import record_look
from pipeline.tracking.registry.champion import history
from pipeline.tracking.registry.versions import register_model, versions
from pipeline.tracking.single_run import log_run
from pipeline.tracking.store import Store
from pipeline.workspace import Workspace

SIDE = 20
IMAGES = SIDE * SIDE
LABELS = np.arange(IMAGES) % 2
CLASSES = ["even", "odd"]
SPLIT = Split(np.arange(0, 20), np.arange(20, 40), np.arange(40, IMAGES))
BUILD = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class ModelConfig:
    name: str

def build_model(config, *, num_classes, image_size, channels):
    pixels = image_size[0] * image_size[1] * channels
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, num_classes, bias=False))
"""
COMPARISON = {"difference": 0.0, "low": -0.005, "high": 0.005, "confidence": 0.95, "seeds": [5, 5], "images": 360, "detectable_difference": 0.008, "note": None}  # fmt: skip


class Place:
    """A checkout whose image i is black but for pixel i, by which a linear network answers it as a test wishes."""

    def __init__(self, root: Path, store: Store, name: str) -> None:
        self.workspace, self.store, self.name = Workspace(root, root), store, name
        self.set()
        self.workspace.prepared.mkdir(parents=True)
        images = np.zeros((IMAGES, IMAGES), np.uint8)
        np.fill_diagonal(images, 255)
        np.save(self.workspace.prepared / "images.npy", images.reshape(IMAGES, SIDE, SIDE, 1))
        np.save(self.workspace.prepared / "labels.npy", LABELS)
        self.describe("d" * 64)
        self.code = root / "networks"
        self.code.mkdir()
        (self.code / "__init__.py").write_text("")
        (self.code / "build.py").write_text(BUILD)

    def describe(self, data_hash: str) -> None:
        manifest = {"format": 1, "data_hash": data_hash, "classes": CLASSES, "sha256": {"images": "", "labels": ""}}
        (self.workspace.prepared / "manifest.json").write_text(json.dumps(manifest))
        write_split(SPLIT, self.workspace.split, data_hash=data_hash, seed=0)

    def set(self, *, metric: str = "accuracy", **promote: Any) -> None:
        params: dict[str, Any] = {"register": {"name": self.name}, "tracking": {"uri": self.store.uri}}
        params |= {"base": {"device": "cpu"}, "promote": promote, "evaluate": {"metric": metric}}
        self.workspace.params.write_text(json.dumps(params))

    def register(self, wrong: Iterable[int] = (), *, file: bool = True, **tags: str) -> int:
        """A version that is wrong on these images alone, evaluated and registered as the stages do it."""
        said = LABELS.copy()
        said[list(wrong)] = 1 - said[list(wrong)]
        weights = torch.full((2, IMAGES), -4.0)
        weights[said, torch.arange(IMAGES)] = 4.0
        folder = self.workspace.root / f"version-{len(list(self.workspace.root.iterdir()))}"
        folder.mkdir()
        save_file({"1.weight": weights}, folder / "weights.safetensors")
        sidecar = {"format": 1, "model": {"name": "linear"}, "num_classes": 2, "classes": CLASSES, "channels": 1}
        sidecar |= {"image_size": [SIDE, SIDE], "mean": [0.0], "std": [1.0], "id": folder.name}
        (folder / "checkpoint.json").write_text(json.dumps(sidecar))
        evaluated = folder / "evaluate"
        evaluated.mkdir()
        shares = weights[:, SPLIT.test].softmax(0).T.numpy()
        arrays: Any = {"best-seed1": shares}
        if file:
            np.savez(evaluated / "predictions.npz", ids=SPLIT.test, labels=LABELS[SPLIT.test], **arrays)
        run = log_run(self.store, experiment=self.name, key=folder.name, name="e", params={}, metrics={}, artifacts={"": evaluated})  # fmt: skip
        known = {"sar.data_hash": "d" * 64, "sar.split_hash": SPLIT.split_hash, "sar.evaluation_run": run}
        known |= {"sar.weights_hash": self.weights(folder)}
        known |= {
            "sar.retrain_folder": "best-seed1",
            "sar.input": f"{SIDE}x{SIDE}x1",
            "sar.test_accuracy": "0.9000",
        }
        known |= {"sar.comparison": json.dumps({"control": "baseline", **COMPARISON}), "sar.commit": "c" * 40}
        made = register_model(
            self.store, name=self.name, checkpoint=folder, code=self.code, model_card="# Card", tags=known | tags,
            run_id=None, input_example=np.zeros((1, SIDE, SIDE, 1), np.uint8),
        )  # fmt: skip
        return made.version

    @staticmethod
    def weights(folder: Path) -> str:
        return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()

    def evaluated(self, *versions: int) -> int:
        """The look of an evaluation of these versions' networks, as evaluate writes it down."""
        return record_look(self.workspace.state, "d" * 64, self.hashes(*versions), commit="c", by="evaluate")

    def hashes(self, *numbers: int) -> list[str]:
        tags = {each.version: each.tags for each in versions(self.store, self.name)}
        return [tags[number]["sar.weights_hash"] for number in numbers]

    def show(self, version: int, **changes: Any) -> None:
        """results/ is of a version, as register writes it."""
        tags = {each.version: each.tags for each in versions(self.store, self.name)}[version]
        content = {"name": self.name, "version": version, "model_hash": tags["sar.model_hash"]} | changes
        folder = self.workspace.results / "register"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "registered.json").write_text(json.dumps(content))

    def promote(self, **options: Any) -> list[str]:
        return list(promote_challenger(self.workspace, options.pop("reason", None), **options))

    def refused(self, **options: Any) -> str:
        """What was printed before the refusal, and the refusal itself."""
        lines: list[str] = []
        with pytest.raises(GateRefused) as refusal:
            lines.extend(promote_challenger(self.workspace, options.pop("reason", None), **options))
        assert refusal.value.exit_code == 3
        return "\n".join([*lines, str(refusal.value)])

    @property
    def champion(self) -> int | None:
        return history(self.store, self.name)[1]

    @property
    def looks(self) -> list[tuple[int, list[str]]]:
        """Number and networks of every look that was written down."""
        path = self.workspace.state / "looks.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line["look"], line["networks"]) for line in map(json.loads, lines)]
