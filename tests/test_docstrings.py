"""Claims about the docstrings of pipeline/, and about the rules by which they are checked (CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.docstrings import PIPELINE, named_in, sentences, split_sections, violations

Faults = Callable[[str], list[str]]

GOOD = '''"""Module of a test."""

def resize(image, size, fill=None):
    """Resizes an image.

    Args:
        image: (H, W, C) uint8.
        size: side in pixels.
        fill: colour of the border; None for black.

    Returns:
        (size, size, C) uint8.
    """
'''


@pytest.mark.parametrize("path", sorted(PIPELINE.rglob("*.py")), ids=lambda path: path.relative_to(PIPELINE).as_posix())
def test_docstrings_follow_the_rules(path: Path) -> None:
    found = [str(each) for each in violations(path)]
    assert not found, "\n".join(found)


def test_the_command_prints_violations_and_how_many() -> None:
    command = [sys.executable, "tests/support/docstrings.py", "pipeline/errors.py"]
    done = subprocess.run(command, cwd=PIPELINE.parent, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("0 violations\n", "", 0)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Faults of a module that is given as text."""
    monkeypatch.setattr("support.docstrings.ROOT", tmp_path)
    (tmp_path / "pipeline").mkdir()

    def find(text: str) -> list[str]:
        path = tmp_path / "pipeline" / "module.py"
        ast.parse(text)
        path.write_text(text)
        return [each.fault for each in violations(path)]

    return find


def test_good_docstring_has_no_fault(faults: Faults) -> None:
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("        size: side in pixels.\n", "", "Args: lacks size"),
        ("        size: side", "        sides: side", "Args: names sides"),
        ("Resizes an image", "What is resized", "begins with 'What'"),
        ("Resizes an image", "Resize an image", "begins with 'Resize'"),
        ("Resizes an image.", "Resizes an image. size: in pixels.", "size: in running text"),
        ("Resizes an image.", "Resizes an image. What is outside is black.", "a sentence begins with 'What'"),
        ("Resizes an image.", f"Resizes {'an image ' * 20}.", "a sentence of 4"),
        ('"""Module of a test."""', '"""Which images are resized."""', "begins with 'Which'"),
    ],
)
def test_fault_is_found(faults: Faults, old: str, new: str, fault: str) -> None:
    assert GOOD.count(old) == 1
    assert any(fault in each for each in faults(GOOD.replace(old, new))), faults(GOOD.replace(old, new))


def test_function_with_many_parameters_and_no_docstring_is_found(faults: Faults) -> None:
    assert faults('"""Module."""\ndef f(a, b, c): ...\ndef g(a, b): ...\n') == [
        "has no docstring, and parameters a, b, c"
    ]


def test_fields_of_a_class_are_attributes(faults: Faults) -> None:
    packed = '"""Module."""\nclass A:\n    """A point. x: in pixels."""\n\n    x: int\n'
    assert faults(packed) == ["x: in running text; make it a line of Args: or Attributes:"]
    assert (
        faults(packed.replace("A point. x: in pixels.", "A point.\n\n    Attributes:\n        x: in pixels.\n    "))
        == []
    )


def test_sections_and_their_entries_are_found() -> None:
    before, sections = split_sections(
        "Does.\n\nArgs:\n    a: one\n        more: not an entry\n    b, c: two\n\nReturns:\n    x"
    )
    assert before == "Does."
    assert list(sections) == ["Args", "Returns"]
    assert named_in(sections["Args"]) == {"a", "b", "c"}


def test_sentences_leave_out_code_and_lists() -> None:
    assert sentences("One. Two: three.\n\n    code. here.\n\n- a list. of things") == ["One.", "Two:", "three."]
