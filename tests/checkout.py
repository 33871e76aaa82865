"""A clone of this checkout for tests that run the real command, the real stages and the real engines."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent

TINY: dict[str, Any] = {
    "model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "train.epochs": 3,
    "search.trials": 2,
    "search.scheduler.grace_period": 2,
    "retrain.seeds": 2,
    "report.attention_images": 2,
    "tracking.attention_images": 2,
}
"""The smallest setting in which every stage still has all of its parts."""


class Checkout:
    """A clone with this checkout's files as they are now, in a folder of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.root = folder
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if not name.startswith("tests/") and name != "dvc.lock" and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "clone"]):
            subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=folder, check=True)
        self.set(settings)

    def set(self, settings: Mapping[str, Any]) -> None:
        """Change params.yaml by dotted path; also to values that it does not allow."""
        yaml = YAML()
        path = self.root / "params.yaml"
        tree = yaml.load(path.read_text())
        for name, value in settings.items():
            node = tree
            *parents, leaf = name.split(".")
            for key in parents:
                node = node[key]
            node[leaf] = value
        with path.open("w") as file:
            yaml.dump(tree, file)

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command of this environment in the clone. Nothing of the tests' own settings gets in."""
        environment = self._environment(env)
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=540)

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start a command as `run` does, in a session of its own, with both outputs in one pipe."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self._environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell's background jobs, and so tests run as one, ignore interruptions, and their children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        )

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
        environment = kept | {"PATH": bin_folder + os.pathsep + os.environ["PATH"]} | dict(env or {})
        # The clone's own code, not that of the checkout that is installed.
        return environment | {"PYTHONPATH": str(self.root)}

    def search(self, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run `sar-search`."""
        return self.run(sys.executable, "-m", "pipeline.cli", *arguments, env=env)

    def repro(self, *targets: str) -> "subprocess.CompletedProcess[str]":
        """Run `dvc repro`, which must succeed."""
        done = self.run("dvc", "repro", *targets)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done
