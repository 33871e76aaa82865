"""What tests of the taps share."""

import pytest
from networks import network
from timm.models.vision_transformer import VisionTransformer


@pytest.fixture
def model() -> VisionTransformer:
    return network()
