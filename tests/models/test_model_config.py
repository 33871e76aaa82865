"""Claims about the names and lists that choose blocks of a network."""

import pytest

from pipeline.models.model_config import LAYER_NAMES, LayerSpec, resolve_layers


@pytest.mark.parametrize(
    ("spec", "blocks"),
    [
        ("last", (5,)),
        ("last_two", (4, 5)),
        ("last_three", (3, 4, 5)),
        ("last_four", (2, 3, 4, 5)),
        ("all", (0, 1, 2, 3, 4, 5)),
        ((0,), (0,)),
        ((4, 1), (1, 4)),
        ((-1,), (5,)),
        ((-6, 5), (0, 5)),
    ],
)
def test_layers_of_six_blocks_are_these_in_ascending_order(spec: LayerSpec, blocks: tuple[int, ...]) -> None:
    assert resolve_layers(spec, 6) == blocks


def test_layers_of_a_network_of_one_block_are_that_block() -> None:
    assert resolve_layers("last", 1) == resolve_layers("all", 1) == resolve_layers((0,), 1) == (0,)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("first", "unknown layers 'first'; known names: last, last_two, last_three, last_four, all"),
        ("last_four", "needs 4 blocks, but the network has 3"),
        ((), "empty list"),
        ((3,), "names block 3, but the network's blocks are 0 to 2"),
        ((-4,), "names block -4, but the network's blocks are 0 to 2"),
        ((1, 1), "names a block twice"),
        ((2, -1), "names a block twice"),
    ],
)
def test_layers_that_three_blocks_do_not_have_are_refused(spec: LayerSpec, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve_layers(spec, 3)


def test_every_name_resolves_in_a_network_of_four_blocks() -> None:
    assert [len(resolve_layers(name, 4)) for name in LAYER_NAMES] == [1, 2, 3, 4, 4]
