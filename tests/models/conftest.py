"""What tests of the taps share."""

from functools import partial

import pytest
from support.small_networks import network
from timm.models.vision_transformer import VisionTransformer

from pipeline.models.tap import SimilarityTap
from pipeline.regularizers.projected_rows import pass_projected


@pytest.fixture
def model() -> VisionTransformer:
    return network()


@pytest.fixture(params=[False, True], ids=["rows by torch", "rows by kernels"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a CPU's rows are worked out, of networks that are too small for one of them."""
    if request.param:
        monkeypatch.setattr("pipeline.regularizers.projected_rows.FEWEST_KEYS", 0)
        monkeypatch.setattr(request.module, "SimilarityTap", partial(SimilarityTap, rows=pass_projected))
