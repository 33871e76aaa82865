"""Types of a search: its task, its resources and its outcome. Imports no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.models.model_config import Weights
from pipeline.tune.journal.journal import METHOD, TrialRecord
from pipeline.tune.space import SearchSpace
from pipeline.tune.study.study import Proposer


@dataclass(frozen=True)
class Resources:
    """cpus, gpus: of one trial. at_a_time: trials together. machine_cpus, machine_gpus: what Ray may use.

    address: of the cluster that runs them, None for this machine alone. nodes: how many it had when it was asked.
    """

    cpus: int
    gpus: float
    at_a_time: int
    machine_cpus: int
    machine_gpus: int
    address: str | None = None
    nodes: int = 1


@dataclass(frozen=True)
class SearchTask:
    """A search. folder: its state, by fingerprint. prepared, split: the data. resources: of its trials.

    header: what the ledger begins with: what the fingerprint is made of, and the code and versions that run it.
    weights: what each specification of pretrained weights was resolved to.
    """

    params: Params
    space: SearchSpace
    fingerprint: str
    folder: Path
    prepared: Path
    split: Path
    resources: Resources
    header: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent:
    """seconds: with a driver running, all sessions together. gpu_seconds: of trials, times their share of a GPU."""

    seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class SearchOutcome:
    """What a search has come to.

    trials: controls, the studies' trials, confirmations; those that were asked for. studies: by name. milestones: the
    rungs' epochs. stopped: why it ended before it had tried all that was asked for, or None.
    """

    trials: Sequence[TrialRecord]
    studies: Mapping[str, Proposer]
    milestones: Sequence[int]
    spent: Spent
    stopped: str | None = None

    @property
    def proposer(self) -> Proposer:
        """The method's own study."""
        return self.studies[METHOD]
