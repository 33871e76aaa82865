"""What a search or retraining is given: its task and its resources. Imports no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Params
from pipeline.models.model_config import Weights
from pipeline.tune.journal.records import Header
from pipeline.tune.space import SearchSpace


@dataclass(frozen=True)
class Resources:
    """cpus, gpus: of one worker. max_concurrent: workers together. machine_cpus, machine_gpus: what Ray may use.

    address: of the cluster that runs them, None for this machine alone. nodes: how many it had when it was asked.
    """

    cpus: int
    gpus: float
    max_concurrent: int
    machine_cpus: int
    machine_gpus: int
    address: str | None = None
    nodes: int = 1


@dataclass(frozen=True)
class RunSpec:
    """Everything that is needed to place training runs on this machine or on a cluster: a search's trials, or
    retraining runs. folder: their state. prepared, split: the data; other_splits: where some runs are of another split.
    resources: of each.

    header: as in a search's journal; its `code` names the users' own methods. weights: what each specification of
    pretrained weights was resolved to.
    """

    params: Params
    folder: Path
    prepared: Path
    split: Path
    resources: Resources
    header: Header = field(default_factory=Header)
    weights: Mapping[str, Weights] = field(default_factory=dict)
    other_splits: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SearchTask(RunSpec):
    """A search. fingerprint: also the name of its folder. asked: the parameters as they were read, without what the
    data decide (`search.choose.then: auto`).

    header: what the journal begins with: what the fingerprint is made of, and the code and versions that run it.
    guide_seconds: that guides have taken before the trials, and those of them on a GPU.
    """

    space: SearchSpace
    fingerprint: str
    asked: Params | None = None
    guide_seconds: tuple[float, float] = (0.0, 0.0)
