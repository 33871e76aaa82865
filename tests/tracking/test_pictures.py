"""What a registered model takes for an image, and what it says of what is none: by itself, by request, by server."""

import base64
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.pyfunc import load_model
from PIL import Image
from support.model_program import images, load, write_network

from pipeline.data.decode import pictures
from pipeline.data.decode.decode import decode_image
from pipeline.data.decode.pictures import UndecodableImage, read_image
from pipeline.models.architecture import describe_network
from pipeline.models.tap import SimilarityTap
from pipeline.tracking.registry.model import ImageClassifier
from pipeline.tracking.registry.versions import register_model
from pipeline.tracking.store import Store

Write = Callable[..., Path]


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, kind, **options)
    return stream.getvalue()


def text(payload: bytes) -> str:
    return base64.b64encode(payload).decode()


def odd_pictures() -> dict[str, bytes]:
    """Pictures of every kind that must become the same pixels as they did for training."""
    colours = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    alpha = np.concatenate([colours, colours[..., :1]], axis=-1)
    found = {
        "png": encoded(colours),
        "jpeg": encoded(colours, "JPEG"),
        "alpha": encoded(alpha),
        "bmp": encoded(colours, "BMP"),
    }
    found |= {"grey": encoded(colours[..., :1]), "16 bits": encoded(colours[..., :1].astype(np.uint16) * 200)}
    found["palette"] = _saved(Image.fromarray(colours).quantize(8), "GIF")
    found["large jpeg"] = encoded(np.kron(colours, np.ones((5, 5, 1), np.uint8)), "JPEG")
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        found[f"turned {turn}"] = encoded(colours, "JPEG", exif=exif)
    return found


def _saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("name", odd_pictures())
def test_a_picture_becomes_the_pixels_that_training_made_of_it(name: str) -> None:
    payload = odd_pictures()[name]
    expected, _ = decode_image(payload, 24)
    np.testing.assert_array_equal(read_image(payload, 3, 24), expected)
    np.testing.assert_array_equal(read_image("data:image/png;base64," + text(payload), 3, 24), expected)


def test_a_grey_picture_of_the_right_size_is_taken_as_it_is() -> None:
    pixels = images(1)[0]
    np.testing.assert_array_equal(read_image(encoded(pixels), 1, 12), pixels)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no base64!", "neither numbers nor base64"),
        (text(b"hello"), "not a picture"),
        ("", "empty file"),
        (encoded(images(1)[0])[:-30], "damaged"),
        ([[[1, 2, 3]]], r"\(H, W, 1\), not \(1, 1, 3\)"),
        (np.zeros((0, 12, 1), np.uint8), r"not \(0, 12, 1\)"),
        ([], r"not \(0,\)"),
        ([[1, 2], [3]], "different lengths"),
        ([[300]], "holds others"),
        ([[-1]], "holds others"),
        ([[0.5]], "holds others"),
        ([["a"]], "holds others"),
        (None, r"not \(\)"),
        ({"a": 1}, r"not \(\)"),
        (_saved(Image.new("F", (4, 4)), "TIFF"), "fractions"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_told(given: Any, says: str) -> None:
    with pytest.raises(UndecodableImage, match=says):
        read_image(given, 1, 12)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 99)
    with pytest.raises(UndecodableImage, match="10 x 10 pixels; at most 99"):
        read_image(encoded(np.zeros((10, 10, 1), np.uint8)), 1, 12)
    with pytest.raises(UndecodableImage, match="10 x 10 pixels; at most 99"):
        read_image(np.zeros((10, 10), np.uint8), 1, 12)


def test_picture_files_go_with_one_or_three_channels() -> None:
    with pytest.raises(UndecodableImage, match="2 channels"):
        read_image(encoded(images(1)[0]), 2, 12)


@pytest.fixture
def classifier(tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path) -> ImageClassifier:
    return load(write_checkpoint(tiny_network), networks)


def test_one_bad_image_of_a_request_gets_an_error_and_the_others_their_answers(classifier: ImageClassifier) -> None:
    good = images(2)
    asked = np.empty(4, dtype=object)
    asked[:] = [text(encoded(good[0])), "rubbish", good[1].tolist(), b"\x89PNG"]
    rows = classifier.predict(None, asked, {"batch_size": 3})
    alone = classifier.predict(None, good)
    assert [error is None for error in rows["error"]] == [True, False, True, False]
    assert [list(rows[column])[1] for column in ("name", "probability", "probabilities")] == [None, None, None]
    np.testing.assert_allclose([rows["probability"][0], rows["probability"][2]], alone["probability"], atol=1e-6)
    assert "NaN" not in json.dumps(rows.to_dict("records"))
    every = classifier.predict(None, np.array(["rubbish"], dtype=object))
    assert every["error"][0]


def test_a_single_image_needs_no_batch(classifier: ImageClassifier) -> None:
    (good,) = images(1)
    expected = classifier.predict(None, good[None])
    for given in (good, np.array(text(encoded(good)), dtype=object), np.array(good.tolist(), dtype=object)):
        assert classifier.predict(None, given).equals(expected)


def test_attention_is_the_mean_over_heads_of_the_last_blocks(
    classifier: ImageClassifier, tiny_network: torch.nn.Module
) -> None:
    asked = np.empty(6, dtype=object)
    asked[:5], asked[5] = list(images()), "rubbish"
    rows = classifier.predict(None, asked, {"attention": True, "batch_size": 2})
    with SimilarityTap(tiny_network, "last", describe_network(tiny_network).query) as tap, torch.inference_mode():
        tiny_network((torch.tensor(images()).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3)
        expected = tap.maps()[:, 0].flatten(2).softmax(2).mean(1).reshape(5, 6, 6)
    torch.testing.assert_close(torch.tensor(list(rows["attention"])[:5]), expected, rtol=0, atol=1e-6)
    assert rows["attention"][5] is None
    assert "attention" not in classifier.predict(None, images())
    assert not classifier.network._forward_hooks


def test_a_network_without_maps_says_so(write_checkpoint: Write, tmp_path: Path, networks: Path) -> None:
    model = load(write_checkpoint(torch.nn.Linear(144, 3)), write_network(tmp_path / "code", 0.0))
    with pytest.raises(ValueError, match="no attention maps"):
        model.predict(None, images(), {"attention": True})


def test_a_server_answers_arrays_and_pictures_and_survives_bad_ones(
    store: Store,
    networks: Path,
    tiny_network: torch.nn.Module,
    write_checkpoint: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = write_checkpoint(tiny_network)
    register_model(store, name="served", checkpoint=checkpoint, code=networks, model_card="#", tags={}, run_id=None, input_example=images(2))  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.pyfunc.scoring_server import invocations
    model = load_model("models:/served@challenger")

    def asked(body: dict[str, Any]) -> Any:
        answer = invocations(json.dumps(body), "application/json", model, model.metadata.get_input_schema())
        assert answer.status == 200, answer.response
        return json.loads(answer.response)["predictions"]

    good = images(2)
    with torch.inference_mode():
        expected = tiny_network((torch.tensor(good).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3).softmax(1).numpy()
    files = [text(encoded(each)) for each in good]
    for body in ({"inputs": good.tolist()}, {"inputs": files}, {"instances": files}, {"dataframe_split": {"columns": ["image"], "data": [[file] for file in files]}}):  # fmt: skip
        found = [list(row["probabilities"].values()) for row in asked(body)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert len(asked({"inputs": files[0]})) == 1
    rows = asked({"inputs": [files[0], "rubbish", [[[1, 2, 3]]]], "params": {"attention": True}})
    assert [bool(row["error"]) for row in rows] == [False, True, True]
    assert np.shape(rows[0]["attention"]) == (6, 6)
    assert len(asked({"inputs": files})) == 2


def test_a_registered_model_reads_deep_pictures_as_its_training_did(
    tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path
) -> None:
    model = load(write_checkpoint(tiny_network, bit_depth=12), networks)
    levels = np.random.default_rng(5).integers(0, 4096, (12, 12), dtype=np.uint16)
    asked = np.empty(2, dtype=object)
    asked[:] = [encoded(levels[..., None]), encoded(levels[..., None] * 16)]
    rows = model.predict(None, asked)
    expected = model.predict(None, (levels >> 4).astype(np.uint8)[None, ..., None])
    assert rows["probability"][0] == pytest.approx(expected["probability"][0], abs=1e-6)
    assert "above 4,095" in rows["error"][1]


def test_a_model_whose_training_had_no_deep_pictures_refuses_what_would_be_black(
    tiny_network: torch.nn.Module, write_checkpoint: Write, networks: Path
) -> None:
    model = load(write_checkpoint(tiny_network), networks)
    levels = np.random.default_rng(5).integers(0, 4096, (12, 12), dtype=np.uint16)
    asked = np.empty(2, dtype=object)
    asked[:] = [encoded(levels[..., None]), encoded(levels[..., None] * 16)]
    first, second = model.predict(None, asked)["error"]
    assert "save it with 8 bits" in first
    assert second is None
