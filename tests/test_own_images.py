"""The user's own pictures through the whole line, and the stumbles of a first evening, by the real command."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from support.checkout import TINY, Checkout
from support.picture_sets import encoded, pictures, write_archive, write_folder

pytestmark = pytest.mark.slow

REPRO = (sys.executable, "-m", "pipeline.cli", "repro")


def _photos() -> dict[str, bytes]:
    """Three classes with a test split of their own, and masks of a square in the middle."""
    files = pictures({f"train/{name}": 12 for name in ("cat", "dog", "hen")})
    files |= pictures({f"test/{name}": 5 for name in ("cat", "dog", "hen")})
    mask = np.zeros((8, 10), dtype=np.uint8)
    mask[2:6, 3:7] = 255
    files |= {f"masks/{name}": encoded(Image.fromarray(mask)) for name in list(files)}
    return {f"photos/{name}": content for name, content in files.items()}


def _registry(checkout: Checkout) -> MlflowClient:
    uri = f"sqlite:///{checkout.root / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _hash_behind_challenger(checkout: Checkout) -> str:
    version = _registry(checkout).get_model_version_by_alias("sar-photos", "challenger")
    return str(version.tags["sar.model_hash"])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout(tmp_path_factory.mktemp("clone"), TINY)
    write_archive(made.root / "photos.tar.xz", _photos())
    made.set({"prepare.dataset": "image_folder", "prepare.root": "photos.tar.xz", "split.train_fraction": 0.9})
    return made


@pytest.fixture
def done(checkout: Checkout) -> Iterator[Checkout]:
    """A clone whose pipeline has run on an archive of pictures; afterwards its parameters are put back."""
    kept = (checkout.root / "params.yaml").read_bytes()
    ended = checkout.run(*REPRO)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    yield checkout
    (checkout.root / "params.yaml").write_bytes(kept)


def test_archive_of_pictures_becomes_a_registered_model(done: Checkout) -> None:
    evaluation = json.loads((done.root / "results/evaluate/evaluation.json").read_text())
    assert evaluation["test_images"] == 15
    assert evaluation["arms"]["best"]["location"]["auroc"] is not None
    client = _registry(done)
    assert client.get_model_version_by_alias("sar-photos", "challenger").version == 1
    assert client.get_experiment_by_name("sar-search/photos") is not None
    assert (done.root / "results/report/index.html").is_file()


def test_broken_picture_ends_with_2_its_name_and_no_traceback(done: Checkout) -> None:
    broken = done.root / "broken"
    write_folder(broken, _photos() | {"photos/train/cat/x.png": b"no picture"})
    done.set({"prepare.root": "broken"})
    ended = done.run(*REPRO)
    assert ended.returncode == 2
    assert "train/cat/x.png: not a picture" in ended.stderr
    assert "prepare.skip_broken" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not (done.root / "data/prepared").exists()

    done.set({"prepare.root": "photos.tar.xz"})
    again = done.run(*REPRO)
    assert again.returncode == 0, again.stderr
    assert "Stage 'search' didn't change, skipping" in again.stdout, "what an earlier set had led to was lost"


def test_second_run_beside_the_first_is_refused_and_an_interrupted_one_goes_on(done: Checkout) -> None:
    done.set({"search.trials": 200, "train.epochs": 10, "search.scheduler.grace_period": 3})
    first = done.start(*REPRO)
    assert first.stdout is not None
    lines = []
    for line in first.stdout:
        lines.append(line)
        if re.match(r"\[ *1 of \d+ runs\] ", line):
            break
    else:
        pytest.fail(f"it ended before it was interrupted:\n{''.join(lines)[-3000:]}")
    second = done.run(*REPRO)
    assert second.returncode == 2
    assert "another process is running the pipeline of this checkout (make repro, process" in second.stderr
    os.killpg(first.pid, signal.SIGINT)
    rest, _ = first.communicate(timeout=120)
    said = "".join(lines) + rest
    assert first.returncode == 130, said[-3000:]
    assert "run the same command again to go on" in rest
    assert "Traceback" not in said
    done.set({"search.trials": 2})
    assert ": goes on; " in done.repro("search").stdout


def test_disk_that_is_full_is_told(done: Checkout, tmp_path: Path) -> None:
    done.set({"prepare.image_size": 1024, "prepare.root": "photos.tar.xz", "model.kwargs.patch_size": 64})
    small = tmp_path / "small"
    small.mkdir()
    # The checkpoints have room there, and 51 images of 1024 pixels a side have not.
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=64m none {small} 2>/dev/null"):
        pytest.skip("a small disk can be made by root alone")
    state = done.root / "state"
    kept = state.rename(done.root / "state.kept")
    try:
        state.symlink_to(small)
        ended = done.run(*REPRO)
    finally:
        state.unlink()
        kept.rename(state)
        os.system(f"umount {small}")
    assert ended.returncode == 2
    assert "are free there. Free some space" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_more_trials_and_back_again_leave_the_registry_where_the_files_are(done: Checkout) -> None:
    """DVC restores files from its run cache and knows nothing of the registry, so `register` must run by itself."""
    kept = done.root / "results/register/registered.json"
    first = json.loads(kept.read_text())
    trials = (done.root / "results/search/trials.csv").read_bytes()
    assert first["model_hash"] == _hash_behind_challenger(done)
    # Another best setting for certain: the space of the second search has no setting in common with the first.
    space = done.root / "search_spaces" / "sar.yaml"
    narrow = space.read_text().replace("low: 0.003, high: 1.0", "low: 2.0, high: 3.0")
    original, _ = space.read_text(), space.write_text(narrow)
    done.set({"search.trials": 3})
    done.repro()
    second = json.loads(kept.read_text())
    assert second["model_hash"] != first["model_hash"]
    assert second["model_hash"] == _hash_behind_challenger(done)

    space.write_text(original)
    done.set({"search.trials": 2})
    said = done.repro().stdout
    assert "Stage 'search' is cached" in said
    assert (done.root / "results/search/trials.csv").read_bytes() == trials
    assert json.loads(kept.read_text())["model_hash"] == first["model_hash"]
    assert _hash_behind_challenger(done) == first["model_hash"]
    versions = _registry(done).search_model_versions("name = 'sar-photos'")
    assert len(versions) == 2
