"""The commands of DVC and git that docs/commands.md and other pages show, on a clone whose data are prepared."""

import shutil
from pathlib import Path

import pytest
from support.checkout import TINY, Checkout

pytestmark = pytest.mark.slow

METRICS = '{"test": {"accuracy": 0.9}}'


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone with a split, and with results that are committed: DVC reads them as those of a run."""
    checkout = Checkout(tmp_path_factory.mktemp("clone"), TINY)
    for name in ("user.name", "user.email"):
        said(checkout, "git", "config", name, "t")
    checkout.repro("split")
    for name in ("search", "evaluate"):
        (checkout.root / "results" / name).mkdir(parents=True)
        (checkout.root / "results" / name / "metrics.json").write_text(METRICS)
    (checkout.root / "results/search/plot_trials.csv").write_text("trial,objective,best so far\n0,0.8,0.8\n1,0.9,0.9\n")
    said(checkout, "git", "add", "dvc.lock", "params.yaml")
    said(checkout, "git", "commit", "-qm", "a run")
    return checkout


def said(checkout: Checkout, *command: str) -> str:
    done = checkout.run(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_metrics_and_plots_are_shown(done: Checkout) -> None:
    assert "0.9" in said(done, "dvc", "metrics", "show", "--json")
    assert "index.html" in said(done, "dvc", "plots", "show")
    (done.root / "results/evaluate/metrics.json").write_text(METRICS.replace("0.9", "0.8"))
    try:
        said(done, "dvc", "metrics", "diff")
        said(done, "dvc", "plots", "diff")
    finally:
        (done.root / "results/evaluate/metrics.json").write_text(METRICS)


def test_experiments_run_here_and_elsewhere_are_shown(done: Checkout) -> None:
    """`-S` writes its values into params.yaml; `--temp` leaves them alone."""
    kept = (done.root / "params.yaml").read_text()
    try:
        said(done, "dvc", "exp", "run", "-S", "split.val_fraction=0.3", "split")
        changed = (done.root / "params.yaml").read_text()
        assert "val_fraction: 0.3" in changed
        said(done, "dvc", "exp", "run", "--temp", "--name", "elsewhere", "-S", "split.val_fraction=0.4", "split")
        assert (done.root / "params.yaml").read_text() == changed
        assert "elsewhere" in said(done, "dvc", "exp", "show", "--only-changed", "--csv")
    finally:
        (done.root / "params.yaml").write_text(kept)
        said(done, "git", "checkout", "dvc.lock")
        said(done, "dvc", "checkout", "data/split.json")


def test_prepared_set_is_brought_back_from_the_cache_and_survives_its_cleaning(done: Checkout) -> None:
    shutil.rmtree(done.root / "data" / "prepared")
    said(done, "dvc", "checkout", "data/prepared")
    said(done, "dvc", "checkout", "--relink", "data/prepared")
    said(done, "dvc", "gc", "--workspace", "--force")
    assert (done.root / "data" / "prepared" / "images.npy").is_file()
    assert "Running stage 'split'" in said(done, "dvc", "repro", "-sf", "split")


def test_unpacked_archive_becomes_a_repository_or_does_without(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, TINY)
    shutil.rmtree(checkout.root / ".git")
    assert checkout.run("dvc", "status").returncode != 0
    said(checkout, "dvc", "config", "--local", "core.no_scm", "true")
    assert checkout.run("dvc", "status").returncode == 0
    (checkout.root / ".dvc" / "config.local").unlink()
    said(checkout, "git", "init")
    assert checkout.run("dvc", "status").returncode == 0
