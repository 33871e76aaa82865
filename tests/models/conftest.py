"""What tests of the taps share."""

import pytest
from networks import network
from timm.models.vision_transformer import VisionTransformer


@pytest.fixture
def model() -> VisionTransformer:
    return network()


@pytest.fixture(params=[0, 10**12], ids=["compiled rows", "rows by torch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which rows are read on a CPU, of networks whose size would decide for one."""
    monkeypatch.setattr("pipeline.models.rows.FEWEST_KEYS", request.param)
