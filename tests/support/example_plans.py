"""A small search over digits, as the tests of what is told before it know it."""

from pipeline.data.sources.image_source import Preview
from pipeline.preflight.profile import StepCost
from pipeline.tune.space import SearchSpace

DIGITS = Preview(images=1797, classes=tuple(str(digit) for digit in range(10)), channels=1)
WEIGHT, LAYERS = "regularizer.spatial_entropy.weight", "regularizer.spatial_entropy.layers"
SPACE = SearchSpace(
    "space.yaml",
    {
        WEIGHT: {"type": "float", "low": 0.01, "high": 1.0, "log": True},
        LAYERS: {"type": "categorical", "choices": ["last", "last_two", "all"]},
    },
    {"baseline": {WEIGHT: 0.0}, "paper": {WEIGHT: 0.01, LAYERS: "last"}},
)
COST = StepCost((0.5, 1.0), 0.01, None, 1_000_000, 0.25)
TEN_STEPS = {"train.batch_size": 100, "train.epochs": 16, "search.checkpoint_every": 2}
"""With a thousand images, of which 800 are trained on: eight steps an epoch, and 200 images to score."""
THOUSAND = Preview(images=2000, classes=("a", "b"), channels=1, test_images=1000)
