"""Pictures classified from the shell with a registered model, overlays of its attention, and its ONNX file."""

import builtins
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from support.prepared_digits import write_digits

from pipeline.cli import cli
from pipeline.commands import predict
from pipeline.commands.predict import classify_files, export_model, format_prediction
from pipeline.data.prepared.prepared import open_prepared
from pipeline.data.splits.split import read_split
from pipeline.errors import UserError
from pipeline.figures.overlay import STRENGTH, attention_overlay
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.tracking.registry.champion import move_champion
from pipeline.tracking.registry.export import graph_of
from pipeline.tracking.registry.loading import load_registered
from pipeline.tracking.registry.versions import register_model
from pipeline.tracking.store import prepare_store, resolve_store
from pipeline.workspace import Workspace

TINY = ModelConfig(
    "vit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}, "xavier", 0.0
)
NETWORKS = Path(__file__).parents[2] / "pipeline" / "models"


@pytest.fixture(scope="module")
def network() -> Iterator[torch.nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield build_model(TINY, num_classes=3, image_size=(12, 12), channels=1).eval()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, network: torch.nn.Module) -> Workspace:
    """A checkout with one version, which is challenger and champion."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "dvc.yaml").touch()
    (root / "params.yaml").write_text("")
    save_file(network.state_dict(), root / "weights.safetensors")
    sidecar = {"format": 1, "model": asdict(TINY), "num_classes": 3, "image_size": [12, 12], "channels": 1}
    sidecar |= {"classes": ["zero", "one", "two"], "mean": [0.4], "std": [0.3]}
    (root / "checkpoint.json").write_text(json.dumps(sidecar))
    store = resolve_store(None, root)
    prepare_store(store)
    example = np.zeros((1, 12, 12, 1), np.uint8)
    register_model(store, name="sar-digits", checkpoint=root, code=NETWORKS, model_card="#", tags={}, run_id=None, input_example=example)  # fmt: skip
    move_champion(store, "sar-digits", 1, expected=None, reason=None)
    return Workspace(root, root)


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with three pictures, and their pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 12, 12), dtype=np.uint8)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, image in zip("abc", pixels, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / ".hidden").touch()
    return folder, pixels


def expected(network: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network((torch.tensor(pixels)[:, None] / 255 - 0.4) / 0.3).softmax(1).numpy()


def test_files_and_folders_are_classified_by_the_champion(
    workspace: Workspace, network: torch.nn.Module, pictures: tuple[Path, np.ndarray]
) -> None:
    folder, pixels = pictures
    answers = list(classify_files(workspace, [folder, folder / "a.png"]))
    assert [Path(each["image"]).name for each in answers] == ["a.png", "b.png", "c.png", "a.png"]
    found = [list(each["probabilities"].values()) for each in answers[:3]]
    np.testing.assert_allclose(found, expected(network, pixels), rtol=0, atol=1e-5)
    assert "overlay" not in answers[0]


def test_batches_change_nothing(
    workspace: Workspace, pictures: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [format_prediction(each) for each in classify_files(workspace, [pictures[0]])]
    monkeypatch.setattr(predict, "BATCH", 2)
    assert [format_prediction(each) for each in classify_files(workspace, [pictures[0]])] == whole


def test_the_command_prints_a_line_an_image_and_fails_where_one_is_none(
    workspace: Workspace, pictures: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    folder = pictures[0]
    (folder / "b.png").write_bytes(b"hello")
    done = CliRunner().invoke(cli, ["predict", str(folder), str(folder / "d.png")])
    lines = done.stdout.splitlines()
    assert " (then " in lines[0]
    assert "b.png  error: not a picture" in lines[1]
    assert "d.png  error: cannot be read (No such file or directory)" in lines[3]
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "2 of 4 images could not be classified"


def test_the_command_gives_json(
    workspace: Workspace, pictures: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(cli, ["predict", "--json", "--model", "challenger", str(pictures[0])])
    assert done.exit_code == 0, done.exception
    rows = json.loads(done.stdout)
    assert [set(row) for row in rows] == [{"image", "name", "probability", "probabilities", "error"}] * 3


def test_overlays_show_the_attention_and_none_replaces_another(
    workspace: Workspace, pictures: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder, pixels = pictures
    (folder / "a.jpg").write_bytes((folder / "a.png").read_bytes())
    (folder / "b.png").write_bytes(b"")
    answers = list(classify_files(workspace, [folder], overlays=tmp_path / "new" / "overlays"))
    written = sorted(path.name for path in (tmp_path / "new" / "overlays").iterdir())
    assert written == ["a-2.png", "a.png", "c.png"]
    assert [Path(each["overlay"]).name for each in answers if "overlay" in each] == ["a.png", "a-2.png", "c.png"]
    assert np.shape(answers[0]["attention"]) == (6, 6)
    side, gap = predict.OVERLAY_SIDE, predict.OVERLAY_GAP
    with Image.open(tmp_path / "new" / "overlays" / "a.png") as image:
        assert image.size == (2 * side + gap, side)
        drawn = np.asarray(image)
    # To the left the picture itself, each of its pixels as a square; to the right its patches, each of one colour.
    times = side // 12
    assert (drawn[:, :side] == pixels[0].repeat(times, 0).repeat(times, 1)[..., None]).all()
    assert (drawn[:, side : side + gap] == 255).all()
    shown = drawn[:, side + gap :]
    assert (shown == shown[::times, ::times].repeat(times, 0).repeat(times, 1)).all()


def test_the_overlay_of_a_larger_picture_is_smooth_and_no_larger_than_the_limit(
    workspace: Workspace, tmp_path: Path
) -> None:
    def overlay(side: int) -> np.ndarray:
        pixels = np.full((side, side + 10), 100, np.uint8)
        pixels[: side // 2, : side // 2] = 250
        Image.fromarray(pixels).save(tmp_path / f"{side}.png")
        (answer,) = classify_files(workspace, [tmp_path / f"{side}.png"], overlays=tmp_path / "seen")
        return np.asarray(Image.open(answer["overlay"]))

    assert overlay(300).shape == (300, 2 * 300 + predict.OVERLAY_GAP, 3)
    assert overlay(500).shape == (predict.OVERLAY_SIDE, 2 * predict.OVERLAY_SIDE + predict.OVERLAY_GAP, 3)
    colours = np.unique(overlay(300)[:, 300 + predict.OVERLAY_GAP :].reshape(-1, 3), axis=0)
    assert len(colours) > 2 * 6 * 6  # more than the patches have, on either grey


def test_the_command_writes_overlays(
    workspace: Workspace, pictures: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(cli, ["predict", str(pictures[0] / "a.png"), "--overlays", str(tmp_path / "seen")])
    assert done.stdout.rstrip().endswith(f"  -> {tmp_path / 'seen' / 'a.png'}")
    assert done.exit_code == 0, done.exception
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["a.png"]


def test_an_overlay_colours_the_strongest_patch_and_leaves_the_weakest() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    drawn = attention_overlay(image, [[0.0, 1.0], [0.0, 0.0]])
    assert drawn[7, 0].tolist() == [100, 100, 100]
    strongest = [round(100 * (1 - STRENGTH) + each * STRENGTH) for each in (0xD5, 0x5E, 0x00)]
    assert drawn[0, 7].tolist() == strongest
    assert (attention_overlay(image, np.full((2, 2), 0.25)) == image).all()
    with pytest.raises(ValueError, match="needed: an image"):
        attention_overlay(image[..., 0], [[1.0]])


def test_a_folder_that_cannot_be_written_or_holds_nothing_is_told(
    workspace: Workspace, pictures: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        list(classify_files(workspace, [pictures[0]], overlays=pictures[0] / "a.png" / "x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder without files"):
        list(classify_files(workspace, [tmp_path / "empty"]))


def test_a_huge_file_is_not_read(
    workspace: Workspace, pictures: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "LARGEST", 2**20)
    with (pictures[0] / "b.png").open("r+b") as file:
        os.truncate(file.fileno(), 2**20 + 1)
    assert [each["error"] for each in classify_files(workspace, [pictures[0]])] == [None, "larger than 1 MB", None]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nobody", "has no such model"),
        ("7", "has no such model"),
        ("models:/other@champion", "has no model 'other'"),
        ("models:/other", "needed: models:/name@alias"),
    ],
)
def test_a_model_that_there_is_not_is_told(workspace: Workspace, model: str, says: str) -> None:
    with pytest.raises(UserError, match=f"--model .*{says}"):
        list(classify_files(workspace, [Path("a.png")], model=model))


def test_picture_that_the_docs_write_is_one_of_the_test_images(
    workspace: Workspace, network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/registry/serving.md").read_text()
    (code,) = (
        each.partition("```")[0] for each in page.split("```python\n") if "photo.png" in each.partition("```")[0]
    )
    write_digits(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    split = read_split(tmp_path / "data/split.json", data_hash=open_prepared(tmp_path / "data/prepared").data_hash)
    image = open_prepared(tmp_path / "data/prepared").images[split.test[:1]]
    (answer,) = classify_files(workspace, [tmp_path / "photo.png"])
    np.testing.assert_allclose([*answer["probabilities"].values()], expected(network, image[..., 0])[0], atol=1e-5)


def test_without_a_run_the_answer_is_that_of_the_list_of_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("")
    none = Workspace(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"^sqlite:.* has no model 'sar-digits'\n  `make repro` registers one"):
        list(classify_files(none, [Path("a.png")]))
    with (
        none.locked("make repro", lock="repro"),
        pytest.raises(UserError, match="no model yet: the pipeline is running in this checkout; wait until it has"),
    ):
        list(classify_files(none, [Path("a.png")]))


def test_a_version_is_chosen_by_its_number(workspace: Workspace, pictures: tuple[Path, np.ndarray]) -> None:
    assert len(list(classify_files(workspace, [pictures[0]], model="1"))) == 3


def test_the_graph_of_the_export_answers_any_number_of_images_as_torch_does(
    workspace: Workspace, network: torch.nn.Module
) -> None:
    loaded = load_registered(resolve_store(None, workspace.root), "sar-digits", 1)
    graph, _ = graph_of(loaded.unwrap_python_model())
    for count in (1, 5):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 12, 12), dtype=np.uint8)
        with torch.no_grad():
            found = graph.module()(torch.from_numpy(pixels[..., None])).numpy()
        np.testing.assert_allclose(found, expected(network, pixels), rtol=0, atol=1e-5)


def test_an_export_without_its_packages_says_what_to_install(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'")
        return usual(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs the packages onnx and onnxscript (.|\n)*\[onnx\]"):
        list(export_model(workspace, tmp_path / "model.onnx"))
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)
@pytest.mark.filterwarnings("default")
def test_the_exported_file_answers_as_torch_does(
    workspace: Workspace, network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(cli, ["export", "--onnx", str(tmp_path / "model.onnx")])
    assert done.exit_code == 0, done.exception
    assert "checked with onnxruntime" in done.stdout.splitlines()[-1]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    pixels = np.random.default_rng(5).integers(0, 256, (5, 12, 12), dtype=np.uint8)
    (found,) = session.run(None, {"images": pixels[..., None]})
    np.testing.assert_allclose(found, expected(network, pixels), rtol=0, atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["zero", "one", "two"]


def test_a_line_of_an_answer_names_the_runner_up() -> None:
    answer = {"image": "a.png", "name": "cat", "probability": 0.7, "probabilities": {"cat": 0.7, "dog": 0.2, "elk": 0.1}, "error": None}  # fmt: skip
    assert format_prediction(answer) == "a.png  cat  0.700  (then dog 0.200)"
