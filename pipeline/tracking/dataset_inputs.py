"""Image sets as MLflow's dataset tracking lists them beside a run, known by our hash of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import Dataset, DatasetInput, InputTag

LONGEST_NAME, LONGEST_DIGEST = 500, 36
"""MLflow's limits. The whole hash stands in the tag `sar.data_hash`."""


@dataclass(frozen=True)
class DataUsed:
    """Data that a run has read, as MLflow lists it. digest: its hash; context: "training", "test" or the like."""

    name: str
    digest: str
    source: str
    context: str
    counts: Mapping[str, int] = field(default_factory=dict)


def dataset_inputs(datasets: Sequence[DataUsed]) -> list[DatasetInput]:
    """As MLflow takes them, cut to its limits."""
    return [
        DatasetInput(
            Dataset(
                name=each.name[:LONGEST_NAME],
                digest=each.digest[:LONGEST_DIGEST],
                source_type="local",
                source=json.dumps({"uri": each.source}),
                profile=json.dumps(dict(each.counts)),
            ),
            [InputTag("mlflow.data.context", each.context)],
        )
        for each in datasets
    ]
