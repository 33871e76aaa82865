"""Records a table of `sar.yaml` on digits by which rules that choose a configuration can be compared (`choosing.py`).

Run: nice python benchmarks/record_choosing.py       # half an hour of two cores; goes on where it was after Ctrl-C
     python benchmarks/record_choosing.py --pack     # what is there -> benchmarks/tables/sar_digits.npz

Configurations are the space's controls and the first points of a scrambled Sobol sequence over it, so that no sampler
has chosen them. Each is trained as a trial of params.yaml is, with the seeds of a search and its confirmations, on the
splits of several values of `base.seed`: bands and defaults are set on the first and reported on the others. Of every
epoch the table has what validation images say: accuracy, loss, AUROC of the attention against the ink (of the head that
is best on them, as `val/attention/auroc`), and which images were right; of the last epoch the same of the test images,
with the head that validation images picked. No run of the pipeline sees any of it.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import PARAMS
from numpy.typing import NDArray
from record_curves import settings_of

from pipeline.assembly import TrainingData, build_run, train_run
from pipeline.compute.limits import usable_cpus
from pipeline.config import Params, Values, load_params
from pipeline.data.prepared.prepared import Manifest, Prepared
from pipeline.data.sources.image_source import SOURCES
from pipeline.data.splits.split import make_split
from pipeline.score.locate import location_scores, pick_head
from pipeline.score.similarity_maps import last_block_maps
from pipeline.train.loop import predict
from pipeline.tune.selection.confirm import FIRST_SEED
from pipeline.tune.space import load_space

ROOT = Path(__file__).parents[1]
SPACE = "search_spaces/sar.yaml"
TABLE = ROOT / "benchmarks" / "tables" / "sar_digits.npz"


def configurations(params: Params, count: int) -> list[Values]:
    """The controls of the space, then so many points of the Sobol sequence, as values by dotted path."""
    space = load_space(ROOT / SPACE, params, shown_as=SPACE)
    return [*(dict(values) for values in space.controls.values()), *settings_of(space, count)]


def data_of(params: Params, split: int) -> TrainingData:
    """The digits, divided as `split` divides them where `base.seed` is the number of the split."""
    source = SOURCES["digits"](params.prepare.image_size)
    divided = make_split(
        source.labels,
        val_fraction=params.split.val_fraction,
        test_fraction=params.split.test_fraction,
        seed=split,
    )
    manifest: Manifest = {"classes": list(source.classes), "data_hash": ""}
    return TrainingData(Prepared(source.images, source.labels, source.masks, manifest), divided, torch.device("cpu"))


def train(params: Params, data: TrainingData, values: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run: by name, a value an epoch, or the bits of the images that were right, as hexadecimal digits."""
    params = params.with_values(values, where="the table")
    run = build_run(params, data, seed=seed)
    val, test = data.batches("val"), data.batches("test", scaled_by="train")
    masks, labels = data.prepared.masks, data.prepared.labels
    assert masks is not None
    found: dict[str, Any] = {"accuracy": [], "loss": [], "auroc": [], "correct": []}
    for epoch in train_run(run, params, data, seed=seed):
        found["accuracy"].append(epoch.metrics["val/accuracy"])
        found["loss"].append(epoch.metrics["val/loss"])
        maps = last_block_maps(epoch.model, val)
        head = pick_head(maps, masks[data.split.val])
        found["auroc"].append(location_scores(maps, masks[data.split.val], head=head).auroc)
        right = predict(epoch.model, val).numpy().argmax(1) == labels[data.split.val]
        found["correct"].append(np.packbits(right).tobytes().hex())
    right = predict(run.model, test).numpy().argmax(1) == labels[data.split.test]
    scores = location_scores(last_block_maps(run.model, test), masks[data.split.test], head=head)
    found |= {"test_correct": np.packbits(right).tobytes().hex(), "test_auroc": scores.auroc}
    return found


def record(folder: Path, params: Params, asked: argparse.Namespace) -> None:
    """Train what the log does not have yet; all configurations of all splits with a seed, then with the next."""
    values = configurations(params, asked.configurations)
    done = {(line["split"], line["row"], line["seed"]) for line in _read(folder)}
    order = [(s, row, n) for n in range(asked.seeds) for s in range(asked.splits) for row in range(len(values))]
    todo = [run for run in order if run not in done]
    began = time.perf_counter()
    with ProcessPoolExecutor(asked.at_a_time, mp_context=get_context("spawn"), initializer=_begin) as pool:
        jobs = [(split, values[row], number) for split, row, number in todo]
        for count, ((split, row, number), found) in enumerate(zip(todo, pool.map(_train_one, jobs), strict=True), 1):
            line = {"split": split, "row": row, "seed": number, "values": values[row], **found}
            with (folder / "runs.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            left = (time.perf_counter() - began) / count * (len(todo) - count) / 60
            said = f"{count}/{len(todo)}: {found['accuracy'][-1]:.3f} {found['auroc'][-1]:.3f}, {left:.0f} minutes left"
            print(said, file=sys.stderr, flush=True)


_given: dict[str, Any] = {}
"""What a process that trains has read once."""


def _begin() -> None:
    torch.set_num_threads(1)
    _given.update(params=load_params(PARAMS), data={})


def _train_one(job: tuple[int, dict[str, Any], int]) -> dict[str, Any]:
    split, values, number = job
    params, data = _given["params"], _given["data"]
    if split not in data:
        data[split] = data_of(params, split)
    # The seeds of a search whose base.seed is the number of the split: its own, then those of its confirmations.
    return train(params, data[split], values, split + (FIRST_SEED + number if number else 0))


def _read(folder: Path) -> list[Values]:
    log = folder / "runs.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def pack(folder: Path, path: Path, params: Params, asked: argparse.Namespace) -> None:
    """Write the table: (splits, configurations, seeds, epochs) of figures, the same with bytes of bits of images."""
    runs = {(line["split"], line["row"], line["seed"]): line for line in _read(folder)}
    values = configurations(params, asked.configurations)

    def gather(name: str) -> list[Any]:
        seeds, rows = range(asked.seeds), range(len(values))
        return [[[runs[s, row, n][name] for n in seeds] for row in rows] for s in range(asked.splits)]

    def bits(name: str) -> NDArray[np.uint8]:
        found = np.array(gather(name))
        packed = [np.frombuffer(bytes.fromhex(text), np.uint8) for text in found.ravel().tolist()]
        return np.stack(packed).reshape(*found.shape, -1)

    splits = [data_of(params, split).split for split in range(asked.splits)]
    arrays: dict[str, Any] = {
        name: np.array(gather(name), np.float32) for name in ("accuracy", "loss", "auroc", "test_auroc")
    }
    arrays |= {name: bits(name) for name in ("correct", "test_correct")}
    counts = {"val": len(splits[0].val), "test": len(splits[0].test)}
    about = {"values": values, "controls": list(load_space(ROOT / SPACE, params, shown_as=SPACE).controls), **counts}
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
    print(f"{path}: {len(runs)} runs, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=ROOT / "state" / "record_choosing", help="kept between runs")
    parser.add_argument("--configurations", type=int, default=48, help="beside the controls")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--at-a-time", type=int, default=usable_cpus(), help="runs side by side, a thread each")
    parser.add_argument("--pack", action="store_true")
    asked = parser.parse_args()
    params = load_params(PARAMS)
    if asked.pack:
        return pack(asked.folder, TABLE, params, asked)
    asked.folder.mkdir(parents=True, exist_ok=True)
    record(asked.folder, params, asked)


if __name__ == "__main__":
    main()
