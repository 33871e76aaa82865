"""What a search is given: its task and its resources. Imports neither Ray nor Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.models.model_config import Weights
from pipeline.tune.space import SearchSpace


@dataclass(frozen=True)
class Resources:
    """cpus, gpus: of one trial. max_concurrent: trials together. machine_cpus, machine_gpus: what Ray may use.

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
class SearchTask:
    """A search. folder: its state, by fingerprint. prepared, split: the data. resources: of its trials.

    header: what the journal begins with: what the fingerprint is made of, and the code and versions that run it.
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
