"""Claims about random erasing on a GPU: the rectangles are timm's for the same draws, and the noise is normal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.triton_interpreter import interpreted
from timm.data import random_erasing

from pipeline.data.augment.erasing import ATTEMPTS, DRAWS, draw_rectangles
from pipeline.data.augment.rng import uniform_draws

KERNEL = "pipeline.data.augment.erase_triton:triton_erase"


class Given:
    """Python's module `random` with the draws of one image instead of random ones."""

    def __init__(self, draws: NDArray[np.float64]) -> None:
        self._attempts = draws[2:].reshape(ATTEMPTS, 4).tolist()
        self._asked, self._first = 0, float(draws[0])

    def random(self) -> float:
        return self._first

    def uniform(self, low: float, high: float) -> float:
        attempt, place = divmod(self._asked, 2)
        self._asked += 1
        return float(low + (high - low) * self._attempts[attempt][place])

    def randint(self, low: int, high: int) -> int:
        drawn = self._attempts[(self._asked - 1) // 2].pop(2)
        return low + int(drawn * (high - low + 1))


@pytest.mark.parametrize("sides", [(32, 32), (224, 224), (9, 40), (3, 3), (2, 5), (1, 9), (1, 1)])
def test_rectangles_are_timms_for_the_same_draws(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    draws = uniform_draws([1, 2, 3], np.arange(200), DRAWS)
    erase: Any = random_erasing.RandomErasing(0.6, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
    for row, (top, left, tall, wide, _) in zip(draws, draw_rectangles(draws, 0.6, sides), strict=True):
        monkeypatch.setattr("timm.data.random_erasing.random", Given(row))
        image = torch.zeros(1, *sides)
        erase(image)
        expected = torch.zeros(sides, dtype=torch.bool)
        expected[int(top) : int(top + tall), int(left) : int(left + wide)] = True
        assert torch.equal(image[0] != 0, expected)


def test_seeds_are_whole_numbers_of_their_own() -> None:
    seeds = draw_rectangles(uniform_draws([1, 2, 3], np.arange(1000), DRAWS), 1.0, (8, 8))[:, 4]
    assert (seeds == np.floor(seeds)).all()
    assert len(set(seeds.tolist())) == 1000
    assert seeds.max() < 2**53


def test_noise_fills_the_rectangles_alone_and_is_normal(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton comes with torch on Linux alone")
    rectangles = draw_rectangles(uniform_draws([1, 2, 3], np.arange(12), DRAWS), 0.8, (48, 70))
    rectangles[0, :4] = 0, 0, 48, 70  # the whole image
    rectangles[1, :4] = 47, 69, 1, 1  # its last pixel
    rectangles[2, :4] = 0.0
    given = torch.full((12, 3, 48, 70), 9.0)
    cases = [{"images": given.clone(), "rectangles": torch.from_numpy(rectangles)} for _ in range(2)]
    cases.append({"images": given[5:6].clone(), "rectangles": torch.from_numpy(rectangles[5:6])})
    found, again, alone = interpreted(cases, tmp_path, KERNEL)
    assert torch.equal(found, again)
    assert torch.equal(found[5:6], alone)
    for image, (top, left, tall, wide, _) in zip(found, rectangles, strict=True):
        expected = torch.zeros(image.shape, dtype=torch.bool)
        expected[:, int(top) : int(top + tall), int(left) : int(left + wide)] = True
        assert torch.equal(image != 9.0, expected)
    noise = found[found != 9.0].double()
    assert len(noise) > 10_000
    # Within four standard errors.
    assert abs(float(noise.mean())) < 4 / len(noise) ** 0.5
    assert abs(float(noise.var()) - 1.0) < 4 * (2 / len(noise)) ** 0.5
    assert abs(float((noise.abs() < 0.6744897501960817).double().mean()) - 0.5) < 2 / len(noise) ** 0.5
    # The same place in other channels and other images has other noise.
    whole = found[0].double()
    assert float(torch.corrcoef(whole.flatten(1)).fill_diagonal_(0).abs().max()) < 4 / whole[0].numel() ** 0.5
    assert not torch.equal(found[0, :, 47, 69], found[1, :, 47, 69])
