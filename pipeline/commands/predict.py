"""Registered models from the shell: classification of pictures, and export to a file for other runtimes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import load_params
from pipeline.data.decode.pictures import UndecodableImage, read_image, with_picture
from pipeline.data.system_files import is_leaving
from pipeline.errors import UserError
from pipeline.figures.overlay import attention_overlay
from pipeline.files.user_files import why_unreadable
from pipeline.promotion.promote import open_store, unless_running
from pipeline.tracking.registry.champion import CHAMPION
from pipeline.tracking.registry.loading import load_registered
from pipeline.tracking.registry.versions import read_model
from pipeline.tracking.registry.weights_download import SPEC, find_version
from pipeline.tracking.store import Store, client
from pipeline.workspace import Workspace

Answer = Mapping[str, Any]
"""Result for one picture, with the keys that `classify_files` lists."""

BATCH = 64
LARGEST = 200 * 2**20
"""Largest size of a file in bytes. A photograph has some ten million."""

OVERLAY_SIDE = 384
"""Largest side of each half of an overlay, in pixels."""

OVERLAY_GAP = 8
"""Width of the white gap between the halves, in pixels."""


def classify_files(
    workspace: Workspace, files: Sequence[Path], *, model: str | None = None, overlays: Path | None = None
) -> Iterator[Answer]:
    """Classifies picture files with a registered model.

    Args:
        workspace: the checkout.
        files: the pictures. A folder stands for the files in it.
        model: "champion", "challenger", a version's number, or models:/name@alias; None for the champion.
        overlays: folder for PNGs with the model's attention; None for none.

    Yields:
        For each file: `image`, `name`, `probability`, `probabilities` and `error`; with overlays also
            `attention` and
        `overlay`.

    Raises:
        UserError: there is no such model, there are no files, the model has no attention, or a folder cannot
            be written.
    """
    wanted = _expanded(files)
    store = open_store(workspace)
    name, version = chosen_version(workspace, store, model)
    loaded = load_registered(store, name, version)
    if overlays is not None:
        try:
            overlays.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--overlays {overlays}: cannot be written ({error.strerror or error})") from None
    taken: set[str] = set()
    for start in range(0, len(wanted), BATCH):
        some = wanted[start : start + BATCH]
        payloads = [_payload(file) for file in some]
        given = np.empty(len(some), dtype=object)
        given[:] = [payload if isinstance(payload, bytes) else b"" for payload in payloads]
        try:
            rows = loaded.predict(given, params={"attention": overlays is not None}).to_dict("records")
        except ValueError as error:
            raise UserError(f"models:/{name}/{version} cannot classify these files: {error}") from None
        for file, payload, row in zip(some, payloads, rows, strict=True):
            answer = {"image": str(file), **row}
            if isinstance(payload, str):
                answer["error"] = payload
            if overlays is not None and isinstance(payload, bytes) and answer["error"] is None:
                depth = getattr(loaded.unwrap_python_model(), "bit_depth", None)  # models of earlier versions have none
                answer["overlay"] = str(_overlay(overlays, file, payload, row, taken, depth))
            yield answer


def format_prediction(answer: Answer) -> str:
    """Returns a line with file, class, probability, the second most probable class, and the overlay if one was written.

    Args:
        answer: a result of `classify_files`.
    """
    if answer["error"] is not None:
        return f"{answer['image']}  error: {answer['error']}"
    ranked = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])[1:2]
    then = "".join(f"  (then {name} {share:.3f})" for name, share in ranked)
    written = f"  -> {answer['overlay']}" if "overlay" in answer else ""
    return f"{answer['image']}  {answer['name']}  {answer['probability']:.3f}{then}{written}"


def chosen_version(workspace: Workspace, store: Store, model: str | None) -> tuple[str, int]:
    """Returns name and version of the model that `--model` selects.

    Args:
        workspace: the checkout.
        store: the tracking store.
        model: alias, version or models:/ address, as for `classify_files`; None for the champion.

    Raises:
        UserError: there is no version of that name, alias or number.
    """
    said = model or CHAMPION
    spec = said
    if not said.startswith("models:/"):
        mark = "/" if re.fullmatch(r"\d+", said) else "@"
        spec = f"models:/{load_params(workspace.params).model_name}{mark}{said}"
    try:
        return find_version(store, spec)
    except ValueError as error:
        if named := SPEC.fullmatch(spec):
            try:
                with unless_running(workspace):
                    read_model(store, client(store), named["name"])
            except UserError as missing:
                raise UserError(str(missing) if model is None else f"--model {spec}: {missing}") from None
        hint = "; `sar-search promote` makes a champion, --model challenger takes the newest" if model is None else ""
        raise UserError(f"--model {spec}: {error}{hint}") from None


def export_model(workspace: Workspace, file: Path, *, model: str | None = None) -> Iterator[str]:
    """Writes a registered model to an ONNX file, and yields lines on what was written and checked.

    Args:
        workspace: the checkout.
        file: the ONNX file.
        model: as for `classify_files`.

    Raises:
        UserError: no such model, missing packages, an unwritable file, or an ONNX model with other outputs.
    """
    from pipeline.tracking.registry.export import export_onnx

    store = open_store(workspace)
    name, version = chosen_version(workspace, store, model)
    said = export_onnx(store, name, version, file)
    yield f"{file}: models:/{name}/{version}, uint8 images (B, H, W, C) of its own size -> probabilities"
    yield said


def _expanded(files: Sequence[Path]) -> list[Path]:
    """Returns the files, with each folder replaced by the files in it."""
    found: list[Path] = []
    for file in files:
        if not file.is_dir():
            found.append(file)
            continue
        inside = sorted(each for each in file.iterdir() if each.is_file() and not is_leaving(each.name))
        if not inside:
            raise UserError(f"{file}: a folder without files")
        found += inside
    return found


def _payload(file: Path) -> bytes | str:
    """Returns a file's bytes, or a text with the reason why it cannot be read."""
    if (why := why_unreadable(file)) is not None:
        return f"cannot be read ({why})"
    try:
        if file.stat().st_size > LARGEST:
            return f"larger than {LARGEST // 2**20} MB"
        return file.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _overlay(folder: Path, file: Path, payload: bytes, row: Answer, taken: set[str], bit_depth: int | None) -> Path:
    """Writes the overlay of one picture beside the picture itself, and returns its path.

    A picture of few pixels is enlarged without interpolation, so that its pixels and the patches stay visible.

    Args:
        folder: folder of the overlays.
        file: the picture's path, whose stem names the overlay.
        payload: the picture's bytes.
        row: the model's result, with `attention`.
        taken: stems that earlier pictures have used; the new one is added.
        bit_depth: bits of grey pictures with more than 8 bits; None for each file's own.

    Raises:
        UserError: the overlay cannot be written.
    """
    stem, number = file.stem, 1
    while stem in taken:
        number += 1
        stem = f"{file.stem}-{number}"
    taken.add(stem)
    path = folder / f"{stem}.png"
    try:
        side = min(OVERLAY_SIDE, with_picture(payload, lambda image: min(image.size), "too many pixels"))
        times = OVERLAY_SIDE // side
        seen = read_image(payload, 3, side, bit_depth).repeat(times, axis=0).repeat(times, axis=1)
        drawn = attention_overlay(seen, row["attention"], in_patches=times > 1)
        gap = np.full((len(seen), OVERLAY_GAP, 3), 255, np.uint8)
        Image.fromarray(np.hstack([seen, gap, drawn])).save(path)
    except (OSError, UndecodableImage) as error:
        raise UserError(f"{path}: cannot be written ({error})") from None
    return path
