"""Claims about retraining: what a run leaves is what its recipe says is to be kept."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.prepared_digits import write_digits

from pipeline.artifacts.best_config import BestConfig
from pipeline.assembly import build_run, load_data
from pipeline.cluster.checkpoint_store import CheckpointStore
from pipeline.compute.usage_summary import DATA_WAIT
from pipeline.config import Params
from pipeline.data.splits.folds import make_folds
from pipeline.data.splits.split import make_split, write_split
from pipeline.errors import UserError
from pipeline.inputs.procedure import read_parts
from pipeline.stages.retrain.__main__ import _part_jobs
from pipeline.stages.retrain.retrain_runs import _run_spec, finished_folders, is_finished, retrain_jobs
from pipeline.stages.retrain.stack_size import StackQuestion, arm_of, choose_stack, group_runs
from pipeline.stages.retrain.worker import HISTORY, RetrainJob, retrain_one, retrain_together, usage_in
from pipeline.train import checkpoint_writer
from pipeline.train.loop import Diverged, Epoch, end_epoch, fit
from pipeline.train.sidecar import SIDECAR, read_sidecar
from pipeline.train.stacked.stack_speed import StackChoice, fastest, sizes
from pipeline.tune.task import Resources
from pipeline.workspace import Workspace

TINY = {
    "base.device": "cpu",
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "split.train_fraction": 0.1,
    "train.epochs": 2,
    "train.batch_size": 32,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data"), train_fraction=0.1)


def test_finished_runs_of_two_folds_are_told_apart(tmp_path: Path) -> None:
    jobs = [
        RetrainJob("best", 1, {}, {}, tmp_path, tmp_path, 1, tmp_path / f"run{fold}", fold=fold) for fold in range(3)
    ]
    for job in jobs[1:]:
        job.folder.mkdir()
        (job.folder / SIDECAR).touch()
    assert len({job.name for job in jobs}) == 1
    assert finished_folders(jobs) == {jobs[1].model_folder, jobs[2].model_folder}


@pytest.mark.parametrize(("decay", "measured"), [(0.0, True), (0.8, False)])
def test_weights_that_are_left_are_the_average_where_there_is_one(
    data: Path, tmp_path: Path, decay: float, measured: bool
) -> None:
    settings = {"train.ema_decay": decay, "tracking.system_metrics": measured}
    params = Params().with_values({**TINY, **settings}, where="test")
    dump: dict[str, Any] = params.model_dump(by_alias=True)
    epochs = CheckpointStore(str(tmp_path / "epochs"))
    job = RetrainJob(
        "best", 5, dump, {}, data / "prepared", data / "split.json", 1, tmp_path / "model", checkpoints=epochs
    )
    retrain_one(job)
    loaded = load_data(job.prepared, job.split, "cpu")
    run = build_run(params, loaded, seed=5, scaled_by="train+val")
    images = loaded.batches("train+val", scaled_by="train+val")
    *_, last = fit(run.model, images, params.train.config(), regularizers=run.regularizers, seed=5)
    with epochs.newest() as (done, folder):
        assert done == 2
        assert folder is not None
        left, curves = load_file(folder / "weights.safetensors"), read_sidecar(folder)["curves"]
        assert [epoch for epoch, _, _ in usage_in(folder)] == ([1, 2] if measured else [])
        assert not any(
            "system/" in path.read_text(errors="replace") for path in folder.glob("*.json") if path.name != HISTORY
        )
    kept = last.model.state_dict()
    assert all(torch.equal(left[name], kept[name]) for name in kept)
    assert (last.model is run.model) == (decay == 0.0)
    on_the_way = run.model.state_dict()
    assert all(torch.equal(left[name], on_the_way[name]) for name in kept) == (decay == 0.0)
    assert len(curves) == 2


def test_further_seeds_leave_what_is_trained_of_the_earlier_ones(tmp_path: Path) -> None:
    def jobs(seeds: int) -> list[RetrainJob]:
        return retrain_jobs(
            Params(), {"best": {}}, seeds=seeds, prepared=tmp_path, split=tmp_path, hashes=["d"], state=tmp_path
        )

    for job in jobs(2):
        job.folder.mkdir(parents=True)
        (job.folder / "checkpoint.json").touch()
    assert [is_finished(job) for job in jobs(3)] == [True, True, False]


class Breaking(CheckpointStore):
    """Storage that is gone when the checkpoint of an epoch is to be written. place: of the others."""

    @contextmanager
    def write(self, epoch: int) -> Iterator[Path]:
        if epoch == 4:
            raise OSError("gone")
        with super().write(epoch) as folder:
            yield folder


@pytest.mark.parametrize(("every", "reached", "beside"), [(1, 3, False), (2, 2, False), (1, 3, True), (2, 2, True)])
def test_run_that_is_broken_off_goes_on_from_its_last_checkpoint_to_the_same_weights(
    every: int, reached: int, beside: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside:  # every checkpoint is written while the next epoch is trained
        monkeypatch.setattr(checkpoint_writer, "LEAST_S", -1.0)
        monkeypatch.setattr(checkpoint_writer, "LEAST_SHARE", -1.0)
    settings = {**TINY, "train.epochs": 5, "train.ema_decay": 0.8, "search.checkpoint_every": every}
    dump: dict[str, Any] = Params().with_values(settings, where="test").model_dump(by_alias=True)
    place = str(tmp_path / "broken.epochs")

    def job(epochs: CheckpointStore) -> RetrainJob:
        return RetrainJob(
            "best", 5, dump, {}, data / "prepared", data / "split.json", 1, tmp_path / "x", checkpoints=epochs
        )

    retrain_one(job(whole := CheckpointStore(str(tmp_path / "whole.epochs"))))
    with pytest.raises(OSError, match="gone"):
        retrain_one(job(Breaking(place)))
    assert CheckpointStore(place).done() == reached
    retrain_one(job(broken := CheckpointStore(place)))
    with whole.newest() as (_, first), broken.newest() as (done, second):
        assert done == 5
        assert first is not None
        assert second is not None
        assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
        assert (first / "checkpoint.json").read_bytes() == (second / "checkpoint.json").read_bytes()
        assert not (second / "state.pt").exists()  # it is done
        parts = json.loads((second / HISTORY).read_text())["parts"]
        assert [part["after"] for part in parts] == [0, reached]
        assert [epoch for epoch, _, _ in usage_in(second)] == [1, 2, 3, 4, 5]
        assert all(seconds > 0 and used[DATA_WAIT] > 0 for _, seconds, used in usage_in(second))
    retrain_one(job(broken))  # there is nothing left to do


def stores_of(folder: Path, seeds: Sequence[int]) -> dict[int, CheckpointStore]:
    return {seed: CheckpointStore(str(folder / str(seed))) for seed in seeds}


def curves_of(store: CheckpointStore) -> list[dict[str, float]]:
    with store.newest() as (_, folder):
        assert folder is not None
        return read_sidecar(folder)["curves"]


class Stopping(CheckpointStore):
    """Storage that is gone when the checkpoint of the third epoch is to be written. place: of the others."""

    @contextmanager
    def write(self, epoch: int) -> Iterator[Path]:
        if epoch == 3:
            raise OSError("gone")
        with super().write(epoch) as folder:
            yield folder


@pytest.fixture
def jobs(data: Path, tmp_path: Path) -> Callable[..., list[RetrainJob]]:
    """Runs of one arm, by the parameters that differ from TINY and the places of their checkpoints by seed."""

    def make(settings: Mapping[str, Any], stores: Mapping[int, CheckpointStore]) -> list[RetrainJob]:
        dump = Params().with_values({**TINY, **settings}, where="test").model_dump(by_alias=True)
        where = data / "prepared", data / "split.json"
        return [
            RetrainJob("best", seed, dump, {}, *where, 1, tmp_path, checkpoints=each) for seed, each in stores.items()
        ]

    return make


def test_seeds_together_leave_what_each_leaves_alone_also_from_checkpoints_of_two_epochs(
    jobs: Callable[..., list[RetrainJob]], tmp_path: Path
) -> None:
    settings = {"train.epochs": 3, "train.ema_decay": 0.8}
    alone, together = (stores_of(tmp_path / name, (5, 6, 7)) for name in ("alone", "together"))
    for job in jobs(settings, alone):
        retrain_one(job)
    (ahead,) = jobs(settings, {5: Stopping(together[5].place)})
    with pytest.raises(OSError, match="gone"):
        retrain_one(ahead)
    assert retrain_together(jobs(settings, together)) is None
    for seed, store in together.items():
        mine, theirs = curves_of(store), curves_of(alone[seed])
        assert [row.keys() for row in mine] == [row.keys() for row in theirs]
        assert mine[0]["train/loss"] == pytest.approx(theirs[0]["train/loss"], rel=1e-3)  # roundings have not grown yet
        with store.newest() as (done, folder):
            assert done == 3
            assert folder is not None
            parts = json.loads((folder / HISTORY).read_text())["parts"]
            assert [part["after"] for part in parts] == ([0, 2] if seed == 5 else [0])
            assert not (folder / "state.pt").exists()


def test_seeds_that_cannot_be_stacked_are_trained_one_after_the_other(
    jobs: Callable[..., list[RetrainJob]], tmp_path: Path
) -> None:
    stores = stores_of(tmp_path, (5, 6))
    both = jobs({"train.optimizer": "lamb"}, stores)
    choice = choose_stack(StackQuestion(both[0], 2, measured=True))
    assert choice.size == 1
    why = retrain_together(both)
    assert why is not None
    assert "lamb" in why
    assert choice.why == why
    assert [store.done() for store in stores.values()] == [2, 2]


def test_memory_that_does_not_suffice_for_a_stack_trains_one_seed_after_the_other(
    jobs: Callable[..., list[RetrainJob]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pipeline.train.stacked.stacked_loop.take_step", full)
    stores = stores_of(tmp_path, (5, 6))
    assert retrain_together(jobs({}, stores)) == "memory does not suffice for 2 seeds together"
    assert [store.done() for store in stores.values()] == [2, 2]


def test_seed_that_diverges_is_told_after_the_others_were_trained(
    jobs: Callable[..., list[RetrainJob]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[object] = []

    def diverge_first(*given: Any, **named: Any) -> Epoch:
        ended.append(None)
        if len(ended) == 1:
            raise Diverged(1)
        return end_epoch(*given, **named)

    monkeypatch.setattr("pipeline.train.stacked.stacked_loop.end_epoch", diverge_first)
    stores = stores_of(tmp_path, (5, 6))
    with pytest.raises(UserError, match=r"best-seed5: the training loss .* barely stable"):
        retrain_together(jobs({}, stores))
    assert [store.done() for store in stores.values()] == [0, 2]


def test_stack_of_the_fastest_size_is_chosen() -> None:
    assert fastest({1: 10.0, 2: 10.2}).size == 1
    assert fastest({1: 10.0, 2: 18.0, 4: 30.0, 5: 31.0}) == StackChoice(4, gain=3.0)
    assert [sizes(most) for most in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


def test_size_is_measured_on_a_few_steps(jobs: Callable[..., list[RetrainJob]], tmp_path: Path) -> None:
    (job,) = jobs({}, stores_of(tmp_path, (5,)))
    assert choose_stack(StackQuestion(job, 2, measured=True)).size in (1, 2)
    assert choose_stack(StackQuestion(job, 2, measured=False)) == StackChoice(2)


def test_runs_are_grouped_by_arm_and_fold(tmp_path: Path) -> None:
    jobs = [
        RetrainJob(arm, seed, {}, {}, tmp_path, tmp_path, 1, tmp_path, fold=fold)
        for seed in range(3)
        for arm in ("best", "baseline")
        for fold in (0, 1)
    ]
    groups = group_runs(jobs, {arm_of(job): StackChoice(2) for job in jobs} | {("baseline", 1): StackChoice(1)})
    assert sorted(index for group in groups for index in group) == list(range(12))
    assert all(len({arm_of(jobs[index]) for index in group}) == 1 for group in groups)
    assert sorted(map(len, groups)) == [1] * 6 + [2] * 3


def test_folds_retrain_both_arms_with_their_own_seeds_and_all_images_what_is_registered(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path)
    labels = np.repeat(np.arange(3), 20)
    split = make_folds(labels, seed=0, fold_seeds=[10_000, 20_000], holdout=0.0, val_fraction=0.2)
    write_split(split, workspace.split, data_hash="d", seed=0)
    parts = read_parts(workspace, Params(), data_hash="d")
    for part in parts:
        folder = part.folder(workspace.results / "search")
        folder.mkdir(parents=True)
        best = {"regularizer.spatial_entropy.weight": 0.1 * (1 + part.number)}
        control = {"baseline": {"regularizer.spatial_entropy.weight": 0.0}}
        BestConfig(fingerprint=f"{part.number}" * 64, trial="t", best=best, controls=control).write(folder)
    jobs = {part.number: _part_jobs(workspace, part, "d", 3).jobs for part in parts}
    assert [(job.name, job.model_folder) for job in jobs[0]] == [("best-seed1", "best-seed1")]
    for number in (1, 2):
        assert [job.model_folder for job in jobs[number]] == [f"folds/{number}/{arm}-seed{10_000 * number + seed}" for seed in (1, 2, 3) for arm in ("best", "baseline")]  # fmt: skip
        assert {job.split for job in jobs[number]} == {parts[number].path}
        assert jobs[number][0].values == {"regularizer.spatial_entropy.weight": 0.1 * (1 + number)}
    every = [job for each in jobs.values() for job in each]
    assert len({job.folder for job in every}) == len(every) == 13
    spec = _run_spec(Params(), every, Resources(1, 0.0, 2, 2, 0))
    assert {spec.split, *spec.other_splits} == {part.path for part in parts}
    (alone,) = read_parts(*without_folds(tmp_path / "other"), data_hash="d")
    folder = alone.folder(tmp_path / "other" / "results" / "search")
    folder.mkdir(parents=True)
    BestConfig(fingerprint="0" * 64, trial="t", best={}, controls={"baseline": {}}).write(folder)
    found = _part_jobs(Workspace(tmp_path / "other", tmp_path / "other"), alone, "d", 3).jobs
    assert [job.model_folder for job in found] == [f"{arm}-seed{seed}" for seed in (1, 2, 3) for arm in ("best", "baseline")]  # fmt: skip


def without_folds(root: Path) -> tuple[Workspace, Params]:
    workspace = Workspace(root, root)
    made = make_split(np.repeat(np.arange(3), 20), val_fraction=0.2, test_fraction=0.2, seed=0)
    write_split(made, workspace.split, data_hash="d", seed=0)
    return workspace, Params()
