"""Pretrained weights whose frozen features `evaluate.probe` reads."""

from collections.abc import Mapping

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.models.model_config import RecordedWeights, Weights
from pipeline.provenance.weights_record import PRETRAINED, SOURCE, from_record
from pipeline.workspace import Workspace


def probed_spec(params: Params) -> str:
    """Returns the specification of the network's pretrained weights, or else of guided transfer's source.

    Args:
        params: the parameters.

    Raises:
        UserError: neither is set, or the data are divided into folds.
    """
    if params.evaluate.folds is not None:
        raise UserError(
            f"params.yaml: evaluate.probe: given true, with evaluate.folds: {params.evaluate.folds}; the probe is "
            "tested on one test role. Set evaluate.probe to false, or evaluate.folds to null."
        )
    spec = params.model.pretrained or params.regularizer.guided_transfer.source
    if spec is None:
        raise UserError(
            f"params.yaml: evaluate.probe: given true, but there are no pretrained weights whose features it could "
            f"read: {PRETRAINED} and {SOURCE} are null. Name weights in one of them, or set evaluate.probe to false."
        )
    return spec


def read_probe_weights(workspace: Workspace, params: Params, recorded: Mapping[str, RecordedWeights]) -> Weights:
    """Returns the weights to be probed, exactly as the search has recorded them.

    Args:
        workspace: the checkout.
        params: its parameters.
        recorded: weights that the search has recorded (`pipeline.provenance.weights_record`).

    Raises:
        UserError: as for `probed_spec`; the search had no such weights, or they were changed or removed
            since.
    """
    spec = probed_spec(params)
    asked = params.with_values({PRETRAINED: spec}, where="params.yaml: evaluate.probe")
    return from_record(workspace, recorded, [asked])[spec]
