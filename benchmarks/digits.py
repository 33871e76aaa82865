"""The digits of scikit-learn as runs of the pipeline get them, for benchmarks that train."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.assembly import TrainingData, build_run
from pipeline.config import Params, load_params
from pipeline.data.prepared.prepared import Manifest, Prepared
from pipeline.data.sources.image_source import SOURCES
from pipeline.data.splits.split import Split
from pipeline.models.tap import SimilarityTap
from pipeline.train.loop import fit

PARAMS = Path(__file__).parent.parent / "params.yaml"
SMALL = {"patch_size": 2, "embed_dim": 64, "depth": 2, "num_heads": 4}


def default_params(**settings: object) -> Params:
    """params.yaml, with values by dotted path, whose dots are written as two underscores."""
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return load_params(PARAMS).with_values(given, where="the benchmark")


def digits(side: int) -> TrainingData:
    """All digits at a size: 1,078 to train on and 359 to validate with, as the default split has them."""
    source = SOURCES["digits"](side)
    order = np.random.default_rng(0).permutation(len(source.images))
    split = Split(np.sort(order[:1078]), np.sort(order[1078:1437]), np.sort(order[1437:]))
    manifest: Manifest = {"classes": list(source.classes), "data_hash": ""}
    return TrainingData(Prepared(source.images, source.labels, None, manifest), split, torch.device("cpu"))


def trained_maps(count: int, *, epochs: int = 4) -> tuple[Tensor, float]:
    """Similarity maps (count, 14, 14) of a trained network's last block, up to 5,748, and its validation accuracy.

    The network is the default one with two blocks, trained for a few epochs on digits of 28 x 28 pixels, whose patches
    of 2 pixels make a 14 x 14 grid. Takes half a minute on an idle core.
    """
    params = default_params(train__epochs=epochs, prepare__image_size=28, model__kwargs=SMALL)
    data = digits(28)
    run = build_run(params, data, seed=0)
    val = data.batches("val")
    for epoch in fit(run.model, data.batches("train"), params.train.config(), val=val, seed=0):
        accuracy = epoch.metrics["val/accuracy"]
    with SimilarityTap(run.model, "last") as tap, torch.no_grad():
        found: list[Tensor] = []
        for inputs, _ in data.batches("train+val").in_order(64):
            run.model(inputs)
            found.append(tap.maps().flatten(0, 2))
    return torch.cat(found)[:count].contiguous(), accuracy
