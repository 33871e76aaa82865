"""Claims about retraining: what a run leaves is what its recipe says is to be kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.assembly import build_run, load_data
from pipeline.config import Params
from pipeline.data.sources import read_digits
from pipeline.data.splits import make_split, write_split
from pipeline.data.store import open_prepared
from pipeline.data.writing import write_prepared
from pipeline.ops.retraining import RetrainJob, retrain_one
from pipeline.train.checkpoint import read_sidecar
from pipeline.train.loop import fit

TINY = {
    "base.device": "cpu",
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "split.train_fraction": 0.1,
    "train.epochs": 2,
    "train.batch_size": 32,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_prepared(read_digits(12), folder / "prepared")
    opened = open_prepared(folder / "prepared")
    split = make_split(opened.labels, val_fraction=0.2, test_fraction=0.2, train_fraction=0.1, seed=0)
    write_split(split, folder / "split.json", data_hash=opened.data_hash, seed=0)
    return folder


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_weights_that_are_left_are_the_average_where_there_is_one(data: Path, tmp_path: Path, decay: float) -> None:
    params = Params().with_values({**TINY, "train.ema_decay": decay}, where="test")
    dump: dict[str, Any] = params.model_dump(by_alias=True)
    job = RetrainJob("best", 5, dump, {}, data / "prepared", data / "split.json", 1, tmp_path / "model")
    retrain_one(job)
    loaded = load_data(job.prepared, job.split, "cpu")
    run = build_run(params, loaded, seed=5, scaled_by="train+val")
    images = loaded.batches("train+val", scaled_by="train+val")
    *_, last = fit(run.model, images, params.train.config(), regularizers=run.regularizers, seed=5)
    left, kept = load_file(job.folder / "weights.safetensors"), last.model.state_dict()
    assert all(torch.equal(left[name], kept[name]) for name in kept)
    assert (last.model is run.model) == (decay == 0.0)
    on_the_way = run.model.state_dict()
    assert all(torch.equal(left[name], on_the_way[name]) for name in kept) == (decay == 0.0)
    assert len(read_sidecar(job.folder)["curves"]) == 2
