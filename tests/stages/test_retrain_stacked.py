"""Claims about retraining with the real Ray: seeds that one worker trains together leave what each leaves alone."""

from pathlib import Path

import pytest
from support.prepared_digits import write_digits
from support.run_comparison import check_rounded_alike

from pipeline.config import Params
from pipeline.stages.retrain.retrain_runs import learning_curves, retrain_jobs, run_retraining

pytestmark = pytest.mark.slow

SETTINGS = {
    "base.device": "cpu",
    "model.kwargs": {"patch_size": 3, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "train.epochs": 2,
    "train.batch_size": 32,
    "retrain.max_concurrent_runs": 1,
}
ARMS = {"best": {"regularizer.spatial_entropy.weight": 0.1}}


def retrained(data: Path, folder: Path, together: int) -> dict[str, list[dict[str, float]]]:
    """Curves of all runs by name. together: seeds of one worker."""
    params = Params().with_values(SETTINGS | {"retrain.seeds_per_worker": together}, where="the test")
    where = {"prepared": data / "prepared", "split": data / "split.json", "state": folder}
    jobs = retrain_jobs(params, ARMS, seeds=3, hashes=["d"], **where)
    return {job.name: learning_curves(job.folder) for job in run_retraining(params, jobs)}


def test_seeds_trained_two_at_a_time_have_the_metrics_of_single_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_digits(tmp_path, train_fraction=0.1)
    alone = retrained(data, tmp_path / "alone", 1)
    assert "together" not in capsys.readouterr().out
    together = retrained(data, tmp_path / "together", 2)
    assert "best: 2 seeds are trained together" in capsys.readouterr().out
    assert together.keys() == alone.keys() == {"best-seed1", "best-seed2", "best-seed3"}
    for name, curves in alone.items():
        assert len(curves) == 2
        for mine, theirs in zip(together[name], curves, strict=True):
            check_rounded_alike(mine, theirs)
    # Otherwise equal metrics would say nothing.
    losses = [together[f"best-seed{seed}"][-1]["train/loss"] for seed in (1, 2)]
    assert losses[0] != pytest.approx(losses[1], rel=2e-3)
