"""YAML 1.2 files that people write. Errors are reported in one line: where, what, and what to do.

As in DVC, 1e-3 is a number and `off` is text.
"""

import re
import warnings
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from pipeline.errors import IN_LISTS, UserError, format_value, quote_name, stray_words
from pipeline.files.text_tables import UndecodableText, decode_text
from pipeline.files.user_files import read_user_file

DIGITS = 250
"""Most digits of a whole number. Longer ones do not fit in a float, and Python refuses to print some of them."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that an escape sequence can put into a text, but that file names and databases reject."""

_WHOLE, _PADDED = re.compile(r"[+-]?(0|[1-9][0-9]*)"), re.compile(r"0[0-9]+([eE][+-]?[0-9]+)?")

_ADVICE = {
    "mapping values are not allowed here": "is the indentation right, and does the line above have its colon?",
    "found character '\\t' that cannot start any token": "indent by spaces, not by tabs",
    "could not determine a constructor for the tag": "tags (!) other than YAML's own are not accepted",
    "but found another document": "a file must contain one document; remove the line ---",
}


def read_yaml(path: Path, *, for_dvc: bool = False) -> Any:
    """Returns the content of a YAML file.

    Args:
        path: The file.
        for_dvc: Whether DVC must be able to read the file too; it must then be UTF-8.

    Raises:
        UserError: the file cannot be read or is not YAML.
    """
    try:
        text = decode_text(read_user_file(path), utf8_only=for_dvc)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run this in the folder that holds dvc.yaml and params.yaml.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UndecodableText as error:
        raise UserError(f"{path}, line {error.line}: cannot be read: {error.what}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Returns the value of a YAML text.

    Args:
        text: The text.
        where: Source of the text, for error messages.

    Raises:
        UserError: the text is not YAML. The message contains the line.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    yaml.composer.warn_double_anchors = False  # YAML allows it: an alias refers to the last anchor before it
    try:
        with warnings.catch_warnings():
            # YAML allows reuse of an anchor's name, but ruamel warns about it.
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            return yaml.load(text)
    except ReaderError as error:  # gives a position in characters instead of a line
        line = text.count("\n", 0, error.position) + 1
        problem = f"it must not contain the control character {chr(error.character)!r}"
        raise UserError(f"{where}, line {line}: not valid YAML: {problem}") from None
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        advice = next((f"; {advice}" for start, advice in _ADVICE.items() if problem.startswith(start)), "")
        line_of = f"{where}, line {mark.line + 1}" if mark is not None else where
        raise UserError(f"{line_of}: not valid YAML: {quote_name(problem, 300)}{advice}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: lists or mappings are nested too deep") from None


def _refuse_split(node: SequenceNode) -> None:
    """Rejects `0,01` within brackets. YAML reads it as 0 and 01, but nobody writes a whole number as 01."""
    plain = [item.value if isinstance(item, ScalarNode) and not item.style else "" for item in node.value]
    for before, after, item in zip(plain, plain[1:], node.value[1:], strict=False):
        if _WHOLE.fullmatch(before) and _PADDED.fullmatch(after):
            problem = f"found {quote_name(after)} after {quote_name(before)}{IN_LISTS}"
            raise ConstructorError(None, None, problem, item.start_mark)


class _Constructor(SafeConstructor):
    """ruamel's constructor, but with one line for every node that has no valid value, including the number of its
    line.
    """

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > DIGITS:
            raise ConstructorError(None, None, f"a whole number of more than {DIGITS} digits", node.start_mark)
        if isinstance(node, SequenceNode) and node.flow_style:
            _refuse_split(node)
        try:
            value = super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = (
                f"{format_value(node.value)} cannot be read ({quote_name(str(error))}); if it is text, put it in quotes"
            )
            raise ConstructorError(None, None, problem, node.start_mark) from None
        if isinstance(value, str) and (found := _UNSTORABLE.search(value)):
            raise ConstructorError(None, None, f"text must not contain {found[0]!r}", node.start_mark)
        return value

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        # ruamel's own message contains both values in full, however long they are.
        if key in mapping:
            raise ConstructorError(
                None,
                None,
                f'found duplicate key "{quote_name(str(key))}"{stray_words(key, value)}',
                key_node.start_mark,
            )
        return True
