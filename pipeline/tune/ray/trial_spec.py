"""Specification that a worker needs to run a trial, and keys of reports. Imports nothing that a node may lack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cluster.data_bundle import DataBundle
from pipeline.cluster.late_nodes import AdmissionRules
from pipeline.config import Values
from pipeline.models.model_config import Weights

STACK = "stack"
"""Key of a configuration: the runs that the worker trains together; and of a report: what became of each."""
APART = "apart"
"""Key of a report that gives a stack back: the `size` in which its runs are to be trained, and `why`."""


@dataclass(frozen=True)
class TrialSpec:
    """Specification that all trials of a search share.

    Attributes:
        params: All parameters, as in params.yaml.
        prepared: Directory of the prepared set on the driver's machine.
        split: The split's file on the driver's machine.
        rung_epochs: Epochs after which the scheduler may pause or end a trial.
        pauses: Whether the scheduler may pause a trial.
        threads: CPU threads of a trial.
        gpus: GPUs of a trial; a fraction is a share of a GPU's memory too.
        weights: Pretrained weights by specification, as resolved when the search started; no trial resolves one
            again.
        bundle: The same files as sent to nodes, if they may lie elsewhere on the trial's node; else None.
        admission: Requirements for nodes that have joined later; None if there are none.
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
