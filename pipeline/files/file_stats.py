"""Hashes and sizes of files and folders."""

import hashlib
import os
from pathlib import Path


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files below a folder. Files that vanish meanwhile are not counted.

    Args:
        path: A file or folder; if it does not exist, the size is 0.
    """
    if not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total
