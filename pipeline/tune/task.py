"""Input of a search or retraining: its task and its resources. Imports no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Params
from pipeline.models.model_config import Weights
from pipeline.tune.journal.records import Header
from pipeline.tune.space import SearchSpace


@dataclass(frozen=True)
class Resources:
    """Resources of a search or retraining.

    Attributes:
        cpus: CPUs of one worker.
        gpus: GPUs of one worker; may be a fraction.
        max_concurrent: Number of workers at the same time.
        machine_cpus: CPUs that Ray may use.
        machine_gpus: GPUs that Ray may use.
        address: Address of the cluster; None for this machine alone.
        nodes: Number of nodes that the cluster had when it was inspected.
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
    """Everything needed to place training runs on this machine or on a cluster: trials of a search, or retraining runs.

    Attributes:
        params: All parameters.
        folder: State directory of the runs.
        prepared: Directory of the prepared set.
        split: The split's file.
        resources: Resources of the runs.
        header: Header as in a search's journal; its `code` names the user's own methods.
        weights: Resolved pretrained weights, by specification.
        other_splits: Files of further splits, if some runs use another one.
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
    """Task of a search.

    The header is the first entry of the journal: the content that makes up the fingerprint, and the code and
    versions that run the search.

    Attributes:
        space: The search space.
        fingerprint: The search's fingerprint, which is also the name of its state directory.
        asked: The parameters as they were read, without the values that the data decide (`search.choose.then:
            auto`).
        guide_seconds: Seconds that guides trained before the trials, and the GPU-seconds among these.
    """

    space: SearchSpace
    fingerprint: str
    asked: Params | None = None
    guide_seconds: tuple[float, float] = (0.0, 0.0)
