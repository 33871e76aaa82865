"""Hypothesis strategies for parameter and space files: the repository's own, broken in one place."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pipeline.config import parameters
from pipeline.config.yaml import parse_yaml

ROOT = Path(__file__).parents[2]
PARAMS = (ROOT / "params.yaml").read_text()
SPACES = {path.name: path.read_text() for path in sorted((ROOT / "search_spaces").glob("*.yaml"))}

LONG = "x" * 100_000
VALUES = [
    "null", "~", "true", "off", "''", "' '", "0", "-1", "-0.0", "1", "1.0", "2", "0.5", "1e-400", "1e3", "1e400", ".nan", ".inf", "-.inf",
    "0x1F", "0o17", "1_000", "08", "'1'", "text", "2024-05-01", "2024-13-45", "[]", "{}", "[1]", "[0]", "[last]", "[[0]]", "[null]",
    "{a: 1}", "{1: 2}", "{null: 1}", "[.nan]", "[0, 0]", "[-1]", "*gone", "!!python/object:os.system", "!!float x", "!!int x", "!!int ''",
    "!!bool x", "!!str 1", "!!binary aGk=", "!other 1", '"\\ud800"', '"\\0"', '"\\e[31m"', '"\\n\\n"', '"\\u202e"', "ü", "😀", "a\tb",
    "search_spaces", "../..", "http://[::1", '"',
    str(10**30), "9" * 240, "1" * 5000, "0x" + "f" * 5000, "-0x" + "f" * 5000, LONG, f"'{LONG}'", f"[{LONG}]", f"{{? {LONG} : 1}}",
    "&itself [*itself]", "&itself {a: *itself}", "{<<: {a: 1}}", "{<<: 1}", "{a: 1, a: 2}", "[" * 200 + "]" * 200, "[" * 1500, "!!set {a, b}",
    "[" + "a, " * 2000 + "]", "[&a [1, 1], &b [*a, *a], &c [*b, *b], &d [*c, *c], [*d, *d]]", "? [1, 2]", "!!omap [a: 1]", "1 # text", "'", "]", "}", "%",
]  # fmt: skip
"""What may stand in the place of a value, as YAML text."""

FILES = [
    b"", b"\n", b"---\n", b"# nothing\n", b"...\n", b"null\n", b"[]\n", b"{}\n", b"7\n", b"text\n", b"- 1\n", b"? \n", b": \n",
    b"\x00", b"\xff\xfe", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x7fELF\x02\x01", b"\xc3", b"a: \xfc\n", b"%YAML 9.9\n---\n", b"%TAG\n---\n",
    b"!!python/object/apply:os.getcwd []\n", b"&a [*a]\n", b"&a {a: *a}\n", b"<<: 1\n", b"<<: {a: 1}\n", b"[" * 1500, b"- " * 3000, b"{" * 500 + b"}" * 500,
    b"a: 1\n" * 2, b"? {a: b}\n: 1\n", b"1: 2\n", b"null: 1\n", b"".join(b"k%d: 1\n" % i for i in range(500)), b"? " + LONG.encode() + b"\n: 1\n",
    PARAMS.encode("utf-16"), PARAMS.encode("utf-32"),
]  # fmt: skip
"""Whole files; the last are right, but for their encoding."""


@dataclass(frozen=True)
class Broken:
    """A file. at: the dotted path of the one place that is broken, where there is such a place."""

    content: bytes
    at: str | None = None

    def __repr__(self) -> str:
        return f"Broken({self.content[:2000]!r}, at={self.at!r})"


def with_value(tree: Any, keys: tuple[str, ...], value: str, name: str | None = None) -> bytes:
    """The tree as YAML, with a text in the place of the value at `keys`, or with another `name` for that value."""
    copied = copy.deepcopy(tree)
    node = copied
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = "@value@"
    if name is not None:
        renamed = {(name if key == keys[-1] else key): item for key, item in node.items()}
        node.clear()
        node.update(renamed)
    text = "\n".join(f"{json.dumps(key)}: {json.dumps(item)}" for key, item in copied.items()) + "\n"
    return text.replace('"@value@"', value, 1).encode()


def places(tree: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where something stands in a mapping of mappings, branches included."""
    found = []
    for key, value in tree.items():
        found.append((*above, key))
        found += places(value, (*above, key)) if isinstance(value, dict) else []
    return found


@st.composite
def wrong_values(draw: st.DrawFn, text: str) -> Broken:
    tree = read_text(text)
    keys = draw(st.sampled_from(places(tree)))
    return Broken(with_value(tree, keys, draw(st.sampled_from(VALUES))), ".".join(keys))


@st.composite
def values_at_bounds(draw: st.DrawFn) -> Broken:
    path, field = draw(st.sampled_from([(path, field) for path, field in parameters().items() if field.metadata]))
    bounds = [getattr(item, key, None) for item in field.metadata for key in ("ge", "gt", "le", "lt")]
    bound = draw(st.sampled_from([bound for bound in bounds if bound is not None] or [0]))
    value = draw(st.sampled_from([bound, bound - 1, bound + 1, -bound, float(bound), bound + 1e-9, bound - 1e-9]))
    return Broken(with_value(read_text(PARAMS), tuple(path.split(".")), repr(value)), path)


@st.composite
def misspelt_keys(draw: st.DrawFn, text: str) -> Broken:
    tree = read_text(text)
    keys = draw(st.sampled_from(places(tree)))
    name, spot = keys[-1], draw(st.integers(0, len(keys[-1]) - 1))
    sign = draw(st.sampled_from(["", name[spot] * 2, name[spot].upper(), "_", "-", ".", " ", "é", "x" * 5000, "\\n"]))
    node = tree
    for key in keys:
        node = node[key]
    return Broken(
        with_value(tree, keys, json.dumps(node), (name[:spot] + sign + name[spot + 1 :]).replace("\\n", "\n"))
    )


@st.composite
def damaged_texts(draw: st.DrawFn, text: str) -> Broken:
    """What a slip of the hand, an editor or a bad merge makes of a text."""
    lines = text.splitlines(keepends=True)
    spot, line = draw(st.integers(0, len(text) - 1)), draw(st.integers(0, len(lines) - 1))
    sign = draw(
        st.sampled_from([*"\t\n:{}[],'\"#&*!|>%@`-? \x00\x07\x1b\x85\u2028\ufeff\u00a0é", "<<<<<<< HEAD\n", "\r"])
    )
    edits: list[Callable[[], str]] = [
        lambda: text[:spot] + text[spot + 1 :],
        lambda: text[:spot] + sign + text[spot:],
        lambda: text[:spot],
        lambda: "".join([*lines[:line], lines[line], *lines[line:]]),
        lambda: "".join([*lines[:line], *lines[line + 1 :]]),
        lambda: "".join([*lines[:line], draw(st.sampled_from([" ", "   ", "\t", "- "])), *lines[line:]]),
        lambda: "".join([*lines[:line], lines[line].lstrip(), *lines[line + 1 :]]),
        lambda: "".join([*lines[:line], draw(st.sampled_from(["---\n", "...\n", "%YAML 1.1\n", "=======\n"])), *lines[line:]]),
        lambda: text.replace("\n", draw(st.sampled_from(["\r\n", "\r"]))),
        lambda: "\ufeff" + text,
    ]  # fmt: skip
    content = draw(st.sampled_from(edits))().encode()
    where = draw(st.integers(0, len(content)))
    return Broken(draw(st.sampled_from([content, content, content, content[:where] + b"\xff" + content[where:]])))


def read_text(text: str) -> Any:
    return copy.deepcopy(_parsed(text))


@cache
def _parsed(text: str) -> Any:
    return parse_yaml(text, "the repository's own")


WEIGHT, LAYERS = "regularizer.spatial_entropy.weight", "regularizer.spatial_entropy.layers"
NUMBERS = [
    "0",
    "1",
    "-1",
    "0.5",
    "1.0",
    "1e-9",
    "5e-324",
    "1e308",
    "-1e308",
    "10",
    "1e400",
    ".nan",
    "true",
    "'1'",
    "null",
]
NUMBERS += [str(10**30), "9" * 240, "[1]", "{}"]
CHOICES = [
    "last",
    "all",
    "last_two",
    "[0]",
    "[0, 1]",
    "[1, 0]",
    "[-1]",
    "[]",
    "[[0]]",
    "0",
    "1",
    "1.0",
    "true",
    "null",
    "{}",
    "''",
]
CHOICES += [
    "{depth: 2}",
    "{depth: 2, patch_size: 2}",
    "2024-05-01",
    "&c [*c]",
    "!!set {a}",
    "vit_tiny_patch16_224",
    ".nan",
    LONG,
]
NAMES = ["baseline", "best", "t0001", "Baseline", "1", "null", "''", "a b", "a/b", "ü", "x" * 41, f"? {LONG} ", "[1]"]
PATHS = [*parameters(), "train", "model.kwargs.depth", "train.lrr", "lr", "banana", "1", "''", "[1, 2]", f"? {LONG} "]


@st.composite
def generated_spaces(draw: st.DrawFn) -> Broken:
    """A space of one dimension and one control, each made of parts that fit or do not."""
    path = draw(
        st.sampled_from([WEIGHT, LAYERS, "train.lr", "train.batch_size", "train.clip_grad"]) | st.sampled_from(PATHS)
    )
    kind = draw(st.sampled_from(["float", "int", "categorical"]))
    if kind == "categorical":
        rest = f"choices: [{', '.join(draw(st.lists(st.sampled_from(CHOICES), max_size=3)))}]"
    else:
        rest = f"low: {draw(st.sampled_from(NUMBERS))}, high: {draw(st.sampled_from(NUMBERS))}"
        rest += draw(st.sampled_from(["", "", ", log: true", ", log: 1"]))
        rest += draw(
            st.sampled_from(["", "", ", step: 0.3", ", step: 3", ", step: 0", ", step: 1e-320", ", step: .nan"])
        )
    rest += draw(st.just("") | _generated_priors())
    control = f"{draw(st.sampled_from(PATHS))}: {draw(st.sampled_from(NUMBERS + CHOICES))}"
    controls = f"{draw(st.just('baseline') | st.sampled_from(NAMES))}: {{{draw(st.just('') | st.just(control))}}}"
    return Broken(f"parameters: {{{path}: {{type: {kind}, {rest}}}}}\ncontrols: {{{controls}}}\n".encode())


@st.composite
def _generated_priors(draw: st.DrawFn) -> str:
    """The prior of a dimension, of parts that fit or do not."""
    number, choice = st.sampled_from(NUMBERS), st.sampled_from(CHOICES)
    given = draw(
        st.builds("center: {}, spread: {}".format, number | choice, number)
        | st.builds("center: {}, weight: {}".format, number | choice, st.sampled_from([*NUMBERS, "0.5"]))
        | st.builds("{}: [{}, {}]".format, st.sampled_from(["normal", "lognormal", "beta"]), number, number)
        | st.builds("probabilities: {{{}: {}}}".format, choice, st.sampled_from([*NUMBERS, "0.5"]))
        | st.builds("center: {}".format, number | choice)
        | number
    )
    return f", prior: {{{given}}}" if ":" in given else f", prior: {given}"


def of_params() -> st.SearchStrategy[Broken]:
    whole = st.sampled_from(FILES).map(Broken)
    return wrong_values(PARAMS) | values_at_bounds() | misspelt_keys(PARAMS) | damaged_texts(PARAMS) | whole


def of_spaces() -> st.SearchStrategy[Broken]:
    whole = st.sampled_from(FILES).map(Broken)
    own = st.sampled_from(list(SPACES.values()))
    broken = own.flatmap(lambda text: wrong_values(text) | misspelt_keys(text) | damaged_texts(text))
    return broken | generated_spaces() | generated_spaces() | whole


def of_networks() -> st.SearchStrategy[Broken]:
    """params.yaml with keywords for the network that types do not tell right from wrong."""
    names = [
        "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "qk_norm", "init_values", "class_token", "reg_tokens",
        "global_pool", "act_layer", "norm_layer", "block_fn", "weight_init", "pos_embed", "patch_drop_rate", "drop_rate", "img_size",
        "device", "dtype", "depht",
    ]  # fmt: skip
    names += ["checkpoint_path", "pretrained_cfg", "features_only", "dynamic_img_size", "self", "''", LONG[:3000]]
    values = ["0", "1", "-1", "-2", "2", "5", "63", "2.0", "0.5", "1e300", "true", "false", "null", "text", "'2'", "''"]
    values += ["1000000", "1000000000", str(10**18), str(10**30), "9" * 240, LONG[:5000]]
    small = {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2}

    def broken(name: str, value: str) -> Broken:
        rest = "".join(f", {json.dumps(key)}: {item}" for key, item in small.items() if key != name)
        return Broken(
            with_value(read_text(PARAMS), ("model", "kwargs"), f"{{? {name} : {value}{rest}}}"), "model.kwargs"
        )

    return st.builds(broken, st.sampled_from(names), st.sampled_from(values))
