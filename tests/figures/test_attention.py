"""Claims about the attention pictures: what is drawn is what the regulariser and the network work with."""

from collections import deque

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm, to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.figures import VERMILION
from pipeline.figures.attention import attention_figure, comparison_figure, components

Maps = NDArray[np.float64]


def slow_components(values: Maps, threshold: float) -> list[set[tuple[int, int]]]:
    """Connected regions by breadth-first search with all eight neighbours, largest first."""
    cut = values.mean() + threshold * values.std()
    left = {(int(row), int(column)) for row, column in np.argwhere(values > cut)}
    found = []
    while left:
        region, queue = set(), deque([left.pop()])
        while queue:
            row, column = queue.popleft()
            region.add((row, column))
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        found.append(region)
    return sorted(found, key=len, reverse=True)


def sample(images: int = 2, heads: int = 3, channels: int = 1) -> tuple[NDArray[np.uint8], Maps, NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    masks = np.zeros((images, 12, 12), dtype=np.uint8)
    masks[:, 3:8, 4:9] = 1
    masks[:, 0] = 255
    pixels = rng.integers(256, size=(images, 12, 12, channels)).astype(np.uint8)
    return pixels, rng.normal(size=(images, heads, 6, 6)), masks


def visible(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def titled(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title() == title)


@pytest.mark.parametrize("threshold", [0.0, 0.5, -0.3])
def test_components_are_the_eight_connected_regions_above_the_cut(threshold: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        values = rng.normal(size=(7, 9))
        labels, expected = components(values, threshold), slow_components(values, threshold)
        drawn = [{(int(r), int(c)) for r, c in np.argwhere(labels == part)} for part in range(1, labels.max() + 1)]
        assert {frozenset(region) for region in drawn} == {frozenset(region) for region in expected}
        assert [len(region) for region in drawn] == [len(region) for region in expected]


def test_components_of_a_constant_map_are_none() -> None:
    assert components(np.full((4, 4), 2.5)).max() == 0


def test_a_figure_has_image_attention_and_three_pictures_a_head() -> None:
    images, maps, masks = sample(images=2, heads=3)
    figure = attention_figure(images, maps, masks=masks, title="What it looks at")
    assert len(visible(figure)) == 2 * (2 + 3 * 3)
    labels = {text for axes in figure.axes for text in (axes.get_title(), axes.get_xlabel(), axes.get_ylabel())}
    assert labels >= {"image", "head 0", "head 2", "attention", "similarity", "above the cut", "components"}
    assert figure.get_suptitle() == "What it looks at"


def test_similarity_is_coloured_around_its_cut() -> None:
    images, maps, _ = sample(images=1, heads=2)
    figure = attention_figure(images, maps, threshold=0.5)
    drawn = titled(figure, "head 1").images[0]
    np.testing.assert_allclose(np.asarray(drawn.get_array()), maps[0, 1])
    norm = drawn.norm
    assert isinstance(norm, TwoSlopeNorm)
    assert norm.vcenter == pytest.approx(maps[0, 1].mean() + 0.5 * maps[0, 1].std())
    assert norm(norm.vcenter) == pytest.approx(0.5)
    assert norm.vmin is not None
    assert norm.vmax is not None
    assert norm.vmax - norm.vcenter == pytest.approx(norm.vcenter - norm.vmin)


def test_component_pictures_carry_the_labels_and_their_number() -> None:
    images, maps, _ = sample(images=1, heads=1)
    figure = attention_figure(images, maps, threshold=0.3)
    axes = next(axes for axes in figure.axes if axes.get_ylabel() == "components")
    labels = components(maps[0, 0], 0.3)
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), labels)
    assert [text.get_text() for text in axes.texts] == [str(labels.max())]


def test_what_is_not_above_the_cut_is_left_out_of_the_thresholded_map() -> None:
    images, maps, _ = sample(images=1, heads=1)
    figure = attention_figure(images, maps, threshold=0.3)
    drawn = next(axes for axes in figure.axes if axes.get_ylabel() == "above the cut").images[0].get_array()
    assert drawn is not None
    values = maps[0, 0]
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), values <= values.mean() + 0.3 * values.std())
    np.testing.assert_allclose(np.ma.getdata(drawn), values)


def test_attention_carries_the_masks_outline_too() -> None:
    images, maps, masks = sample(images=1)
    for figure in (attention_figure(images, maps, masks=masks), comparison_figure(images, {"a": maps}, masks=masks)):
        axes = next(axes for axes in figure.axes if "attention" in axes.get_xlabel() + axes.get_title())
        assert any(isinstance(drawn, ContourSet) for drawn in axes.collections)


def test_three_arms_widen_the_figure_instead_of_shrinking_its_pictures() -> None:
    images, maps, _ = sample(images=1)
    two, three = (comparison_figure(images, dict.fromkeys("abc"[:arms], maps)) for arms in (2, 3))
    columns = {2: 7, 3: 10}
    assert two.get_figwidth() / columns[2] >= 1.05
    assert three.get_figwidth() / columns[3] >= 1.05
    # A pane as wide as two arms take shows the words of three in the same size.
    sizes = [figure.axes[1].title.get_fontsize() / figure.get_figwidth() for figure in (two, three)]
    assert sizes[1] == pytest.approx(sizes[0])


def test_overlay_is_the_softmax_averaged_over_heads() -> None:
    images, maps, _ = sample(images=1, heads=3)
    figure = attention_figure(images, maps)
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "attention")
    weight = np.exp(maps[0])
    attention = (weight / weight.sum(axis=(1, 2), keepdims=True)).mean(axis=0)
    tint = np.asarray(axes.images[1].get_array())
    np.testing.assert_allclose(tint[0, 0, :3], to_rgb(VERMILION))
    above = np.maximum(attention / attention.mean() - 1, 0)
    np.testing.assert_allclose(tint[..., 3], 0.9 * above / max(above.max(), 1), atol=1e-12)


@pytest.mark.parametrize(("spread", "deepest"), [(0.0, 0.0), (0.02, 0.05), (5.0, 0.9)])
def test_attention_that_is_nearly_uniform_has_hardly_any_colour(spread: float, deepest: float) -> None:
    images, maps, _ = sample(images=1, heads=1)
    figure = comparison_figure(images, {"best": spread * (maps - maps.mean()) / maps.std()})
    tint = np.asarray(titled(figure, "best\nattention").images[1].get_array())
    assert tint[..., 3].max() == pytest.approx(deepest, abs=0.05)


def test_a_legend_says_what_lines_colours_and_numbers_mean() -> None:
    images, maps, masks = sample()
    for figure in (attention_figure(images, maps, masks=masks, threshold=0.25), comparison_figure(images, {"a": maps})):
        said = " ".join(figure.get_supxlabel().split())
        assert said.startswith("Outline: the mask. ") == ("mean +0.25 standard deviations" in said)
        assert "deeper the orange, the more" in said
        assert "the number says how many there are" in said
        assert figure.get_tightbbox().x1 <= figure.get_figwidth() + 0.05


def test_mask_is_outlined_only_where_it_has_an_edge() -> None:
    images, maps, masks = sample(images=3)
    masks[1], masks[2] = 1, 255
    figure = attention_figure(images, maps, masks=masks)
    shown = figure.axes[:: 3 * (1 + maps.shape[1])]
    outlined = [any(isinstance(drawn, ContourSet) for drawn in axes.collections) for axes in shown]
    assert outlined == [True, False, False]
    contour = next(drawn for drawn in shown[0].collections if isinstance(drawn, ContourSet))
    corners = contour.get_paths()[0].get_extents()
    # The object fills rows 3 to 7 and columns 4 to 8 of 12.
    np.testing.assert_allclose([corners.x0, corners.x1], [4 / 12, 9 / 12], atol=0.01)
    np.testing.assert_allclose([corners.y0, corners.y1], [3 / 12, 8 / 12], atol=0.01)


def test_many_heads_continue_on_further_lines() -> None:
    images, maps, _ = sample(images=1, heads=12)
    figure = attention_figure(images, maps)
    assert len(visible(figure)) == 2 + 3 * 12
    assert titled(figure, "head 11").get_subplotspec() is not None
    columns = {axes.get_subplotspec().get_gridspec().ncols for axes in figure.axes}  # type: ignore[union-attr]
    assert columns == {7}


def test_colour_images_are_drawn() -> None:
    images, maps, masks = sample(channels=3)
    attention_figure(images, maps, masks=masks).canvas.draw()
    comparison_figure(images, {"best": maps, "control": -maps}, masks=masks).canvas.draw()


def test_a_map_that_is_constant_is_drawn_without_complaint() -> None:
    images, maps, _ = sample(images=1)
    attention_figure(images, np.zeros_like(maps)).canvas.draw()


def test_comparison_shows_both_arms_side_by_side() -> None:
    images, maps, masks = sample()
    figure = comparison_figure(images, {"best": maps, "control": -maps}, masks=masks, title="Side by side")
    titles = [axes.get_title() for axes in figure.axes[:7]]
    parts = ("attention", "similarity", "components")
    assert titles == ["image", *(f"best\n{part}" for part in parts), *(f"control\n{part}" for part in parts)]
    drawn = np.asarray(titled(figure, "control\nsimilarity").images[0].get_array())
    np.testing.assert_allclose(drawn, -maps[0].mean(axis=0))
    assert any(isinstance(drawn, ContourSet) for drawn in figure.axes[0].collections)


def test_comparison_shows_the_head_it_is_told() -> None:
    images, maps, _ = sample()
    figure = comparison_figure(images, {"best": maps, "control": -maps}, heads={"best": 2, "control": 0})
    np.testing.assert_allclose(np.asarray(titled(figure, "best\nhead 2").images[0].get_array()), maps[0, 2])
    np.testing.assert_allclose(np.asarray(titled(figure, "control\nhead 0").images[0].get_array()), -maps[0, 0])


def test_input_that_does_not_fit_is_refused_by_name() -> None:
    images, maps, masks = sample()
    with pytest.raises(ValueError, match="images must be uint8"):
        attention_figure(images / 255, maps)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images must be uint8"):
        attention_figure(images[..., 0], maps)
    with pytest.raises(ValueError, match=r"similarity must have shape \(2,"):
        attention_figure(images, maps[:1])
    with pytest.raises(ValueError, match=r"masks must have shape \(2,"):
        attention_figure(images, maps, masks=masks[:1])
    with pytest.raises(ValueError, match=r"similarity must have shape \(2,"):
        comparison_figure(images, {"best": maps, "control": maps[0]})
