"""What a worker needs to run a trial. Imports nothing that a node may lack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cluster.data_bundle import DataBundle
from pipeline.cluster.late_nodes import AdmissionRules
from pipeline.config import Values
from pipeline.models.model_config import Weights


@dataclass(frozen=True)
class TrialSpec:
    """What all trials of a search share. params: as in params.yaml.

    rung_epochs: after which the scheduler may hold or end a trial. pauses: whether it may hold one. threads, gpus:
    what a trial may use; a share of a GPU is a share of its memory too. weights: what each specification of
    pretrained weights was resolved to when the search started; no trial looks one up again. bundle: the same files,
    where they may have to be found elsewhere on the node that a trial runs on. admission: what a node that has joined
    meanwhile is held against; None where there is none.
    """

    params: Values
    prepared: Path
    split: Path
    rung_epochs: Sequence[int]
    pauses: bool
    threads: int
    gpus: float
    weights: Mapping[str, Weights] = field(default_factory=dict)
    bundle: DataBundle | None = None
    admission: AdmissionRules | None = None
