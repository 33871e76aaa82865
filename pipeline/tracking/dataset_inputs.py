"""Image sets as inputs in MLflow's dataset tracking, identified by our hash of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow.entities import Dataset, DatasetInput, InputTag

LONGEST_NAME, LONGEST_DIGEST = 500, 36
"""MLflow's limits, in characters. The tag `sar.data_hash` has the whole hash."""


@dataclass(frozen=True)
class DataUsed:
    """Data that a run has read, as MLflow lists it.

    Attributes:
        name: name of the set.
        digest: hash of the set.
        source: address of the set.
        context: role of the data, such as "training" or "test".
        counts: further numbers by name, stored as the profile.
    """

    name: str
    digest: str
    source: str
    context: str
    counts: Mapping[str, int] = field(default_factory=dict)


def dataset_inputs(datasets: Sequence[DataUsed]) -> list[DatasetInput]:
    """Returns the image sets as MLflow's entities, cut to its limits."""
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
