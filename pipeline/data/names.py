"""Comparison of names that differ only in letter case, in the encoding of accents, or in trailing spaces or dots.

File systems treat these differently, so names can change when files are copied from one to another. An exact
match always comes first. Another spelling is accepted only if it can mean one thing alone.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


def normalize_name(name: str) -> str:
    """Returns the name with each accented letter as one code point (Unicode NFC).

    Args:
        name: A file name, path or class name.
    """
    return unicodedata.normalize("NFC", name)


def name_key(name: str) -> str:
    """Returns a key that all spellings of a name, or of a path part by part, have in common.

    Args:
        name: A file name or path, with `/` or backslashes.
    """
    parts = (part.strip().rstrip(". ") or part for part in name.replace("\\", "/").split("/"))
    return normalize_name("/".join(parts).lower())  # not casefold, which maps ß to ss


def class_key(name: str) -> str:
    """Returns the `name_key` of a class name. Single letters keep their case: A and a are different classes.

    Args:
        name: A class name.
    """
    bare = normalize_name(name.strip().rstrip(". ") or name)
    return bare if len(bare) == 1 else name_key(name)


def spelled_twice(names: Iterable[str]) -> list[list[str]]:
    """Returns groups of two or more class names that have the same `class_key`.

    These names differ only in letter case, in how an accent is encoded, or in spaces and trailing dots.

    Args:
        names: Class names.
    """
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(class_key(name), []).append(name)
    return [group for group in by_key.values() if len(group) > 1]


class Names(Generic[_Value]):
    """Mapping by name that also finds unambiguous other spellings of a name."""

    def __init__(self, values: Mapping[str, _Value]) -> None:
        self._by_key: dict[str, set[str]] = {}
        for name in values:
            self._by_key.setdefault(name_key(name), set()).add(name)
        self._values = values

    def find(self, name: str) -> str | None:
        """Returns the name in the mapping that is meant by `name`; None if there is none, or more than one."""
        if name in self._values:
            return name
        meant = self._by_key.get(name_key(name), set())
        alike = [each for each in meant if normalize_name(each) == normalize_name(name)]
        meant = set(alike) or meant
        return next(iter(meant)) if len(meant) == 1 else None

    def __getitem__(self, name: str) -> _Value:
        found = self.find(name)
        if found is None:
            raise KeyError(name)
        return self._values[found]
