"""Names that are one name to a person: with other letter case, an accent as one sign or two, spaces or dots at the end.

File systems disagree about these, so that names change on the way from one to another. What is spelled alike is always
meant first; another spelling is taken where there is one thing alone that it can mean.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


def normalize_name(name: str) -> str:
    """The name with each accented letter as one sign."""
    return unicodedata.normalize("NFC", name)


def name_key(name: str) -> str:
    """What all spellings of a name, or of each part of a path, have in common."""
    parts = (part.strip().rstrip(". ") or part for part in name.replace("\\", "/").split("/"))
    return normalize_name("/".join(parts).lower())  # and not casefold, to which ss is a spelling of ß


def class_key(name: str) -> str:
    """As `name_key`, of a class: letters are classes of their own, A another than a."""
    bare = normalize_name(name.strip().rstrip(". ") or name)
    return bare if len(bare) == 1 else name_key(name)


def spelled_twice(names: Iterable[str]) -> list[list[str]]:
    """Classes that are one to a person, in groups of two or more spellings."""
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(class_key(name), []).append(name)
    return [group for group in by_key.values() if len(group) > 1]


class Names(Generic[_Value]):
    """Values by name, found in any spelling that leaves no doubt."""

    def __init__(self, values: Mapping[str, _Value]) -> None:
        self._by_key: dict[str, set[str]] = {}
        for name in values:
            self._by_key.setdefault(name_key(name), set()).add(name)
        self._values = values

    def find(self, name: str) -> str | None:
        """The name among these that is meant, or None: there is none, or several that it is the spelling of."""
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
