"""A clone of this checkout for tests that run the real command, the real stages and the real engines."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from copied import copy_checkout, environment_of, set_parameters, take_interrupts

TINY: dict[str, Any] = {
    "model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "train.epochs": 3,
    "search.trials": 2,
    "search.budget.full_trainings": None,
    "search.scheduler.grace_period": 2,
    "search.scheduler.reduction_factor": 2.0,
    "search.keep_checkpoints": 5,
    "retrain.seeds": 2,
    "report.attention_images": 2,
    "tracking.attention_images": 2,
}
"""The smallest setting in which every stage still has all of its parts."""


class Checkout:
    """A clone with this checkout's files as they are now, in a folder of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.root = folder
        copy_checkout(folder)
        self.set(settings)

    def set(self, settings: Mapping[str, Any]) -> None:
        """Change params.yaml by dotted path; also to values that it does not allow."""
        set_parameters(self.root / "params.yaml", settings)

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
            preexec_fn=take_interrupts,
        )

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return environment_of(self.root) | dict(env or {})

    def search(self, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run `sar-search`."""
        return self.run(sys.executable, "-m", "pipeline.cli", *arguments, env=env)

    def repro(self, *targets: str) -> "subprocess.CompletedProcess[str]":
        """Run `dvc repro`, which must succeed."""
        done = self.run("dvc", "repro", *targets)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done
