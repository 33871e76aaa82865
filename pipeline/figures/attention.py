"""Pictures of the attention of the CLS token.

A similarity map contains the logits before softmax of one image and head on the patch grid. The
spatial-entropy regulariser cuts it at its mean plus `threshold` standard deviations, and rewards few
connected components above the cut. The pictures show the map, the cut, the components, and the attention that
follows from it.

Shape letters: n images, A heads, H x W pixels, h x w patches.
"""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]

from pipeline.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH, new_figure

Floats = NDArray[np.float64]

_FULL = 2.0
"""Attention of a patch, as a multiple of the map's mean, that has the full colour at least if it is the map's highest.
"""
_LEAST = 1.05
"""Smallest width of a column in inches."""
_HEADS_ABREAST = 6
"""Heads on one line."""
_PARTS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)


def attention_figure(
    images: NDArray[np.uint8],
    similarity: NDArray[np.floating[Any]],
    *,
    masks: NDArray[np.uint8] | None = None,
    threshold: float = 0.0,
    title: str = "",
) -> Figure:
    """Draws three lines an image: the similarity map of every head, its part above the cut, and the components.

    The first column has the image and, below it, the attention: the softmax over patches, averaged over the
    heads. Deeper orange means more attention, and no colour the map's mean or less. Maps are white at their cut
    and orange above it; in the second line, everything else is grey. The largest six components have their own
    colours, all others are grey. Their number is in the corner. More than six heads continue on further lines. A
    legend below the pictures says so.

    Args:
        images: (n, H, W, C) uint8 with one or three channels.
        similarity: (n, A, h, w).
        masks: (n, any, any) with 1 for the object, which is outlined on image and attention; None for no
            outline.
        threshold: standard deviations from the mean of a map to its cut.
        title: heading of the figure; empty for none.

    Raises:
        ValueError: the shapes do not fit.
    """
    maps = _checked(images, similarity, masks)
    heads = maps.shape[1]
    blocks = math.ceil(heads / _HEADS_ABREAST)
    figure, grid = _grid(3 * blocks * len(images), 1 + math.ceil(heads / blocks), title)
    for index, image in enumerate(images):
        lines = grid[3 * blocks * index : 3 * blocks * (index + 1)]
        mask = None if masks is None else masks[index]
        _draw_image(lines[0][0], image, mask)
        _draw_attention(lines[1][0], image, attention(maps[index]).mean(axis=0), mask)
        if index == 0:
            lines[0][0].set_title("image", fontsize=9)
        lines[1][0].set_xlabel("attention", fontsize=8)
        for head in range(heads):
            block, column = divmod(head, math.ceil(heads / blocks))
            above, middle, below = (lines[3 * block + line][1 + column] for line in range(3))
            _draw_similarity(above, maps[index, head], threshold)
            _draw_similarity(middle, maps[index, head], threshold, cut_off=True)
            _draw_components(below, maps[index, head], threshold)
            if index == 0 or blocks > 1:
                above.set_title(f"head {head}", fontsize=9)
            if column == 0:
                above.set_ylabel("similarity", fontsize=8)
                middle.set_ylabel("above the cut", fontsize=8)
                below.set_ylabel("components", fontsize=8)
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    _write_legend(figure, threshold, 9, outlined=masks is not None)
    return figure


def comparison_figure(
    images: NDArray[np.uint8],
    similarity: Mapping[str, NDArray[np.floating[Any]]],
    *,
    masks: NDArray[np.uint8] | None = None,
    heads: Mapping[str, int] | None = None,
    threshold: float = 0.0,
    title: str = "",
) -> Figure:
    """Draws a line an image: the image, and for each arm its attention, similarity map and components.

    Attention is averaged over the heads. So is the map, because heads of two networks do not correspond,
    unless `heads` names one for each arm.

    Args:
        images: (n, H, W, C) uint8 with one or three channels.
        similarity: arm -> (n, A, h, w).
        masks: (n, any, any) with 1 for the object; None for no outline.
        heads: the head of each arm whose map is drawn; None for the mean over heads.
        threshold: as in `attention_figure`. It is the same for all arms, since numbers of components at
            different cuts are not comparable.
        title: heading of the figure; empty for none.

    Raises:
        ValueError: the shapes do not fit.
    """
    checked = {arm: _checked(images, maps, masks) for arm, maps in similarity.items()}
    figure, grid = _grid(len(images), 1 + 3 * len(checked), title)
    size = 9 * max(1.0, figure.get_figwidth() / WIDTH)  # the report scales wide pictures down
    grid[0][0].set_title("image", fontsize=size)
    for place, (arm, maps) in enumerate(checked.items()):
        start = 1 + 3 * place
        shown = maps.mean(axis=1) if heads is None else maps[:, heads[arm]]
        source = "similarity" if heads is None else f"head {heads[arm]}"
        for column, label in enumerate(("attention", source, "components")):
            grid[0][start + column].set_title(f"{arm}\n{label}", fontsize=size)
        for index, image in enumerate(images):
            mask = None if masks is None else masks[index]
            _draw_attention(grid[index][start], image, attention(maps[index]).mean(axis=0), mask)
            _draw_similarity(grid[index][start + 1], shown[index], threshold)
            _draw_components(grid[index][start + 2], shown[index], threshold)
    for index, image in enumerate(images):
        _draw_image(grid[index][0], image, None if masks is None else masks[index])
    _write_legend(figure, threshold, size, outlined=masks is not None)
    return figure


def _write_legend(figure: Figure, threshold: float, size: float, *, outlined: bool) -> None:
    """Writes below the pictures what their lines, colours and numbers mean.

    Args:
        figure: the figure.
        threshold: standard deviations from the mean of a map to its cut.
        size: size of the titles in points.
        outlined: whether masks are outlined.
    """
    said = (
        f"{'Outline: the mask. ' * outlined}Attention: the deeper the orange, the more; no colour at the map's mean "
        f"or below, full colour at its maximum, or at {_FULL:g} times the mean if the maximum is lower. Similarity: "
        f"orange above the cut (mean {threshold:+.2g} standard deviations), purple below it, white at it. Components: "
        "patches above the cut that touch, the largest in blue, then yellow, green and so on; the number says how many "
        "there are."
    )
    # In this font, 1.75 characters are about as wide as the titles are high.
    wrapped = textwrap.fill(said, round(1.75 * 72 * figure.get_figwidth() / size))
    figure.supxlabel(wrapped, fontsize=0.89 * size, x=0.01, ha="left", linespacing=1.3)


def components(similarity: NDArray[np.floating[Any]], threshold: float = 0.0) -> NDArray[np.int64]:
    """Labels the 8-connected components of a similarity map above its mean + threshold * std.

    Args:
        similarity: the map (h, w).
        threshold: standard deviations from the mean to the cut.

    Returns:
        (h, w), 0 outside of components, 1 in the largest, 2 in the second largest, and so on.
    """
    values = np.asarray(similarity, dtype=np.float64)
    labels, count = ndimage.label(values > _cut(values, threshold), structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    rank = np.zeros(count + 1, dtype=np.int64)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    ranked: NDArray[np.int64] = rank[labels]
    return ranked


def _cut(values: Floats, threshold: float) -> float:
    return float(values.mean() + threshold * values.std())


def attention(maps: NDArray[np.floating[Any]]) -> Floats:
    """Returns the softmax over the patches.

    Args:
        maps: (..., h, w).
    """
    weight = np.exp(maps - maps.max(axis=(-2, -1), keepdims=True))
    shares: Floats = weight / weight.sum(axis=(-2, -1), keepdims=True)
    return shares


def _checked(
    images: NDArray[np.uint8], similarity: NDArray[np.floating[Any]], masks: NDArray[np.uint8] | None
) -> Floats:
    """Checks the shapes, and returns the similarity maps as float64.

    Args:
        images: (n, H, W, C) uint8.
        similarity: (n, A, h, w).
        masks: (n, any, any), or None.

    Raises:
        ValueError: the shapes do not fit.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (n, H, W, 1 or 3), got {images.dtype} {images.shape}")
    if similarity.ndim != 4 or len(similarity) != len(images):
        raise ValueError(f"similarity must have shape ({len(images)}, heads, rows, columns), got {similarity.shape}")
    if masks is not None and (masks.ndim != 3 or len(masks) != len(images)):
        raise ValueError(f"masks must have shape ({len(images)}, height, width), got {masks.shape}")
    return np.asarray(similarity, dtype=np.float64)


def _grid(rows: int, columns: int, title: str) -> tuple[Figure, NDArray[Any]]:
    # More columns than an image and two arms widen the figure, because a picture under an inch is unreadable.
    """Returns an empty figure with a grid of axes.

    Args:
        rows, columns: size of the grid.
        title: heading of the figure; empty for none.
    """
    width = min(max(WIDTH, _LEAST * columns), 1.6 * columns + 0.3)
    figure = new_figure(width / columns * rows + 0.5, title, width=width)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr,call-arg]
    grid: NDArray[Any] = figure.subplots(rows, columns, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for axes in grid.flat:
        axes.spines[:].set(color="#BBBBBB", linewidth=0.6)
    return figure, grid


def _draw_image(axes: Axes, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> None:
    """Draws an image with the outline of its mask.

    Args:
        axes: the axes.
        image: (H, W, C) uint8.
        mask: 1 for the object, or None.
    """
    _show(axes, image, cmap="gray", vmin=0, vmax=255)
    _outline(axes, mask, VERMILION)


def _outline(axes: Axes, mask: NDArray[np.uint8] | None, colour: str) -> None:
    """Draws the outline of a mask, unless it is all object or all background.

    Args:
        axes: the axes.
        mask: 1 for the object, or None.
        colour: colour of the line.
    """
    if mask is None:
        return
    inside = mask == 1
    if inside.all() or not inside.any():
        return
    # Each pixel becomes fine squares, so that the outline follows pixel edges and not pixel centres.
    fine = np.kron(inside, np.ones((math.ceil(200 / max(inside.shape)),) * 2))
    rows, columns = ((np.arange(side) + 0.5) / side for side in fine.shape)
    for drawn, width in (("white", 2.6), (colour, 1.4)):
        axes.contour(columns, rows, fine, levels=[0.5], colors=[drawn], linewidths=[width])


def _draw_attention(axes: Axes, image: NDArray[np.uint8], shares: Floats, mask: NDArray[np.uint8] | None) -> None:
    """Draws attention above its mean as a tint over a pale grey image.

    Args:
        axes: the axes.
        image: (H, W, C) uint8.
        shares: attention (h, w).
        mask: 1 for the object, or None.
    """
    grey = image.mean(axis=-1)
    _show(axes, 255 - 0.5 * (255 - grey), cmap="gray", vmin=0, vmax=255)
    # One colour of varying density keeps the image readable, and is unambiguous with any colour vision.
    tint = np.empty((*shares.shape, 4))
    tint[..., :3] = to_rgb(VERMILION)
    # Attention that is nearly the same everywhere has hardly any colour, which its own range would make vivid.
    above = shares / shares.mean() - 1
    tint[..., 3] = 0.9 * np.clip(above / max(float(above.max()), _FULL - 1), 0, 1)
    _show(axes, tint)
    _outline(axes, mask, BLACK)  # the tint is orange itself


def _draw_similarity(axes: Axes, values: Floats, threshold: float, *, cut_off: bool = False) -> None:
    """Draws a similarity map in colours around its cut.

    Args:
        axes: the axes.
        values: the map (h, w).
        threshold: standard deviations from the mean to the cut.
        cut_off: whether values up to the cut are grey.
    """
    cut = _cut(values, threshold)
    reach = max(float(np.abs(values - cut).max()), 1e-12)
    shown = np.ma.masked_less_equal(values, cut) if cut_off else values  # type: ignore[no-untyped-call]
    axes.set_facecolor("#C8C8C8")
    _show(axes, shown, cmap="PuOr_r", norm=TwoSlopeNorm(cut, cut - reach, cut + reach))


def _draw_components(axes: Axes, values: Floats, threshold: float) -> None:
    """Draws the components of a similarity map, and their number.

    Args:
        axes: the axes.
        values: the map (h, w).
        threshold: standard deviations from the mean to the cut.
    """
    labels = components(values, threshold)
    colours = ListedColormap(["white", *_PARTS, GREY])
    _show(axes, np.minimum(labels, len(_PARTS) + 1), cmap=colours, vmin=-0.5, vmax=len(_PARTS) + 1.5)
    # A rim around the digits keeps them readable on any colour; a plate would hide a part of the patch behind it.
    rim = [withStroke(linewidth=2.5, foreground="white")]
    axes.text(0.95, 0.05, str(labels.max()), transform=axes.transAxes, ha="right", fontsize=8, path_effects=rim)


def _show(axes: Axes, values: NDArray[Any], **style: Any) -> None:
    # Image, mask and maps share one unit square, whatever their resolutions.
    """Draws an array over the unit square of the axes.

    Args:
        axes: the axes.
        values: (rows, columns), or with colour channels.
        **style: further arguments of `imshow`.
    """
    axes.imshow(values, extent=(0, 1, 1, 0), interpolation="nearest", **style)
    axes.set_aspect(values.shape[0] / values.shape[1])
