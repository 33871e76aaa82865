"""Comparisons with given figures, as `compare_arms` would have found them."""

from pipeline.score.comparison import Comparison, at_confidence


def comparison(
    difference: float,
    error: float | None,
    *,
    images_error: float | None = None,
    freedom: float = 8.0,
    control: float = 0.9,
    seeds: tuple[int, int] = (5, 5),
    images: int = 360,
    layout: str = "paired",
    confidence: float = 0.95,
) -> Comparison:
    """error: standard error; None where there is no interval. images_error: that of images alone; None for half."""
    found = Comparison(
        difference=difference,
        low=None,
        high=None,
        confidence=confidence,
        best_mean=control + difference,
        best_sd=0.005,
        control_mean=control,
        control_sd=0.005,
        seeds=seeds,
        images=images,
        layout=layout,
        standard_error=error,
        degrees_of_freedom=None if error is None else freedom,
        images_error=None if error is None else error / 2 if images_error is None else images_error,
        detectable_difference=None,
        note="with one seed in an arm there is no interval" if error is None else None,
    )
    return at_confidence(found, confidence)
