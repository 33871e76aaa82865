"""Weights from files, read so that no code in them can run: safetensors, and torch files that hold tensors alone."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

SAFE = ".safetensors"
SAVED = (".pt", ".pth", ".bin")
SUFFIXES = (SAFE, *SAVED)

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts store a network's state, averaged weights first, in timm's order."""

PREFIXES = ("_orig_mod.", "module.")
"""Prefixes that torch.compile and data parallelism add to every key."""

CONVERT = "on a machine where you trust it, save its tensors alone, with safetensors.torch.save_file"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file by name, on the CPU, without the wrappers that training scripts put around them.

    Args:
        path: file of one of SUFFIXES.

    Raises:
        ValueError: no such file, a broken one, one that holds more than tensors and so could run code when it
            is read, or one without a network's state. The message does not name the file.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"is no file of weights; needed: {', '.join(SUFFIXES)}, or a checkpoint's folder")
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        raise ValueError("cannot be read (a folder, a pipe or a device, and no file)")
    try:
        with path.open("rb"):
            pass  # the file can be opened: errors from here on concern its content
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None
    try:
        content: Any = load_file(path) if path.suffix.lower() == SAFE else _load_saved(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"is a broken or unfinished file of weights ({first_line(error)})") from None
    tensors = _unprefixed(_unwrapped(content))
    if odd := [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"holds more than the tensors of a network: {abbreviate(odd)} {'is' if len(odd) == 1 else 'are'} no tensor"
        )
    if not tensors:
        raise ValueError("holds no tensors")
    return tensors


def abbreviate(names: Sequence[str], most: int = 4) -> str:
    """Returns the first of many names, and the number of the others, in words."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _load_saved(path: Path) -> Any:
    """Returns the content of a file that torch saved.

    Raises:
        ValueError: the file is broken, or holds more than tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a broken file may raise anything
        if isinstance(error, UnpicklingError) or "TorchScript" in str(error):
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            holds = f"holds {found[1]} beside tensors" if found else "holds more than tensors"
            raise ValueError(
                f"{holds}, and reading that could run code of whoever made the file, so it was not read; {CONVERT}"
            ) from None
        raise ValueError(f"is a broken or unfinished file of weights ({first_line(error)})") from None


def _unwrapped(content: Any) -> Mapping[Any, Any]:
    """Returns a network's state without the WRAPPERS around it."""
    while isinstance(content, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            return content
        content = content[wrapper]
    raise ValueError(f"holds a {type(content).__name__} instead of a network's tensors by name")


def _unprefixed(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns a network's state without PREFIXES that all of its keys have."""
    tensors = {str(key): value for key, value in state.items()}
    while prefix := next((each for each in PREFIXES if tensors and all(key.startswith(each) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, shortened; the error's type if it has none."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


def describe_difference(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], fresh: Collection[str] = ()
) -> tuple[str, list[str], list[str]]:
    """Compares weights with the state of a network.

    Args:
        own: the network's state, by key.
        given: the weights, by key.
        fresh: keys of the network that the weights need not have.

    Returns:
        The differences in words, "" if there are none; the keys that are missing, and those that are unexpected.
    """
    missing = [key for key in own if key not in given and key not in fresh]
    unexpected = [key for key in given if key not in own]
    reshaped = [
        f"{key} ({format_shape(tensor.shape)}, here {format_shape(own[key].shape)})"
        for key, tensor in given.items()
        if key in own and own[key].shape != tensor.shape
    ]
    listed = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{what} {abbreviate(keys)}" for what, keys in listed.items() if keys), missing, unexpected


def format_shape(sizes: Sequence[int]) -> str:
    """Returns sizes in words: `3 x 12 x 12`.

    Args:
        sizes: sizes of the dimensions, in order.
    """
    return " x ".join(str(int(size)) for size in sizes)
