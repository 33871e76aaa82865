"""The files of a checkpoint, and what it says of itself; importable without torch."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

FORMAT = 1
WEIGHTS = "weights.safetensors"
STATE = "state.pt"
SIDECAR = "checkpoint.json"
"""Written last: a folder that has it is complete."""


def read_sidecar(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        UserError: no checkpoint there, or one of another format.
    """
    try:
        sidecar: dict[str, Any] = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        if sidecar["format"] != FORMAT:
            raise UserError(f"{folder}: a checkpoint of another version (format {sidecar['format']}).")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a complete checkpoint ({error}).") from None
    return sidecar
