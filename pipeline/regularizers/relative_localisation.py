"""Relative localisation, L_drloc, the usual competitor on small data sets.

Liu et al., Efficient Training of Visual Transformers with Small Datasets, 2021, arXiv 2106.03746. From the
tokens e of the final k_y x k_x grid, m pairs of places (i, j), (p, h) are sampled for every image, each place
uniformly and independently. A small network f with ReLU, 2D -> 512 -> 512 -> 2, predicts the offset of the
two from their tokens:

    L_drloc = mean over images, pairs and both directions of | f(e_ij, e_ph) - t |
    paper   t = (|i - p| / k_y, |j - h| / k_x), the grid averaged to 7 x 7 first where it is larger
    code    t = (i - p + k - 1, j - h + k - 1), square grids only, not averaged: the release with its ViT

Published weights are 0.5 (Swin) and 0.1 (T2T, CvT) for the paper's form. The loss of the released form is
larger by about the grid's side. f is trained with the network and discarded afterwards.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.architecture import describe_network
from pipeline.regularizers.base import (
    Features,
    Regularizer,
    RegularizerOutput,
    RequiredFeatures,
    at_least_float32,
    named_network,
)

FORMS = ("paper", "code")
HIDDEN = 512
LARGEST_GRID = 7
"""Side to which the paper averages larger grids."""


class RelativeLocalisation(Regularizer):
    """L_drloc. Monitor: `value`, the unweighted loss.

    Pairs are sampled from torch's global random stream, so that in training they depend on seed and epoch
    alone.

    Args:
        weight: Peak of the weight's schedule.
        pairs: m, the number of pairs per image.
        form: "paper" or "code".
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the monitors are computed on validation images at weight 0 too.

    Raises:
        ValueError: If the form is unknown, or `pairs` is below 1.
    """

    def __init__(
        self,
        *,
        weight: float,
        pairs: int = 64,
        form: str = "paper",
        schedule: str = "warmup_cosine",
        watch: bool = False,
    ) -> None:
        super().__init__(weight, RequiredFeatures(tokens=True), schedule=schedule, watch=watch)
        if form not in FORMS:
            raise ValueError(f"form: unknown form {form!r}; known: {', '.join(FORMS)}")
        if pairs < 1:
            raise ValueError(f"pairs: given {pairs}; needed: at least 1")
        self.pairs = pairs
        self.form = form
        self.predictor: nn.Module | None = None

    def prepare(self, model: nn.Module, *, inputs_shape: tuple[int, ...]) -> None:
        """Creates the network that predicts offsets, with fresh weights.

        Raises:
            ValueError: If the network has no grid of tokens, or, for the released form, a grid that is not
                square.
        """
        try:
            architecture = describe_network(model)
        except ValueError as error:
            raise ValueError(f"relative localisation needs a grid of patch tokens: {error}") from None
        rows, columns = architecture.grid
        if self.form == "code" and rows != columns:
            raise ValueError(
                f"form code of relative localisation is defined on square grids; {named_network(model)} has another. "
                "Use form: paper, or square images."
            )
        # float32 at least, like the tokens that are collected, even for a network in half precision.
        dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        self.predictor = offset_predictor(architecture.width).to(dtype)

    def forward(self, features: Features) -> RegularizerOutput:
        if features.tokens is None:
            raise ValueError("relative localisation needs the final tokens, and none were collected")
        if self.predictor is None:
            raise RuntimeError("relative localisation has not been prepared for a network")
        tokens = pooled(features.tokens) if self.form == "paper" else features.tokens
        images, rows, columns, _ = tokens.shape
        places = torch.randint(rows * columns, (2, images, self.pairs), device=tokens.device)
        loss = relative_localisation(tokens, places, self.predictor, form=self.form)
        return RegularizerOutput(loss, {"value": loss.detach()})


def offset_predictor(channels: int) -> nn.Sequential:
    """Returns f: (..., 2 * channels) -> (..., 2), with torch's default initial weights."""
    return nn.Sequential(
        nn.Linear(2 * channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)
    )


def pooled(tokens: Tensor) -> Tensor:
    """Averages tokens (B, H, W, D) so that no side of the grid is above 7; smaller sides stay unchanged."""
    rows, columns = tokens.shape[1:3]
    if max(rows, columns) <= LARGEST_GRID:
        return tokens
    grid = (min(rows, LARGEST_GRID), min(columns, LARGEST_GRID))
    return F.adaptive_avg_pool2d(at_least_float32(tokens).permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)


def relative_localisation(tokens: Tensor, places: Tensor, predictor: nn.Module, *, form: str = "paper") -> Tensor:
    """Computes the mean absolute error of predicted offsets, a scalar.

    Args:
        tokens: (B, H, W, D), floating point. Half precision is computed in float32.
        places: First and second place of each pair, (2, B, m) int64, counted along the rows of the grid.
        predictor: (B, m, 2D) -> (B, m, 2).
        form: "paper" or "code".
    """
    grid = at_least_float32(tokens).flatten(1, 2)  # (B, N, D)
    ends = [grid.gather(1, place.unsqueeze(-1).expand(-1, -1, grid.shape[-1])) for place in places]
    guessed: Tensor = predictor(torch.cat(ends, dim=-1))
    height, width = tokens.shape[1:3]
    return (guessed - offsets(places, (height, width), form=form).to(guessed)).abs().mean()


def offsets(places: Tensor, grid: tuple[int, int], *, form: str = "paper") -> Tensor:
    """Returns the offsets to predict, (B, m, 2) float64: along the rows' and along the columns' direction.

    Args:
        places: (2, B, m), as of `relative_localisation`.
        grid: (H, W).
        form: "paper": distances as fractions of the grid's sides, in [0, 1). "code": signed, first minus
            second place, plus the side less one, so in 0 .. 2k - 2.

    Raises:
        ValueError: If the form is unknown, or it is "code" on a grid that is not square.
    """
    height, width = grid
    first, second = places
    signed = torch.stack([first // width - second // width, first % width - second % width], dim=-1).double()
    if form == "paper":
        return signed.abs() / signed.new_tensor([height, width])
    if form != "code" or height != width:
        raise ValueError(f"offsets of form {form!r} are not defined on a {height} x {width} grid")
    return signed + (height - 1)
