"""The commands that README.md and docs/ show, and their shapes: subcommands and options, without the values."""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import click
from click.core import ParameterSource

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

OURS = ("sar-search", "make", "dvc", "python", "pytest", "docker/services.sh")
CLICK = ("mlflow", "ray")
OTHERS = (
    "git",
    "docker",
    "docker-compose",
    "sbatch",
    "pip",
    "uv",
    "tail",
    "du",
    "stat",
    "curl",
    "echo",
    "export",
    "source",
)
PROGRAMS = (*OURS, *CLICK, *OTHERS)
GROUPS_OF_DVC = ("exp", "metrics", "plots", "queue")
PROGRAMS_IN_BASH = {"docs/results/on-a-gpu.md": "tests/preflight/test_published_commands.py"}
"""Pages whose blocks are programs, with variables and a function, and the test that runs those up to DVC."""

TABLE_OF_OTHERS = "## Commands that no test runs"
"""Heading in docs/commands.md under which commands are shapes and patterns, which cannot be parsed."""

KINDS = {"", "sh", "yaml", "python"}
"""What a block of code may call itself; one without a name may show commands, or what they print."""

SEPARATORS = {"|", "||", "&&", ";"}


class Block(NamedTuple):
    """A block of code of a page."""

    page: str
    kind: str
    text: str


class Command(NamedTuple):
    """A command as a page shows it. whole: it is in a block of code, where it can be typed as it stands."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return shlex.join(self.words)


class Unparsable(Exception):
    """A command that its program would refuse."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of code of a page, those of lists too."""
    for kind, text in re.findall(r"^ *```([^\n]*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S):
        yield Block(name_of(page), kind, text)


def spans_of(page: Path) -> Iterator[str]:
    """What stands between backticks outside of blocks of code, on one line or two."""
    text = page.read_text(encoding="utf-8").partition(TABLE_OF_OTHERS)[0]
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    return (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))


def lines_of(text: str) -> Iterator[str]:
    """The lines of a block, continued ones as one, without those that are empty or comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def commands_in(line: str) -> Iterator[tuple[str, ...]]:
    """The words of each command of a shell's line: without what is set before it, and without where its output goes."""
    command: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in SEPARATORS:
            command.append(word)
            continue
        while command and (command[0] == "time" or re.match(r"[A-Z_]+=", command[0])):
            del command[0]
        if ">" in command:
            del command[command.index(">") :]
        if command:
            yield (command[0].removeprefix(".venv/bin/"), *command[1:])
        command = []


def shows_commands(text: str) -> bool:
    return any(words[0] in PROGRAMS for line in lines_of(text) if _can_be_split(line) for words in commands_in(line))


@cache
def commands() -> tuple[Command, ...]:
    """Every command of every page: those of blocks, those that `bash -c` is given, and those within sentences."""
    found = []
    for page in PAGES:
        for block in blocks_of(page):
            if block.page not in PROGRAMS_IN_BASH and block.kind in ("", "sh") and shows_commands(block.text):
                found += [
                    Command(block.page, words, True) for line in lines_of(block.text) for words in commands_in(line)
                ]
        for span in spans_of(page):
            if len(span.split()) > 1 and span.split()[0].removeprefix(".venv/bin/") in PROGRAMS and _can_be_split(span):
                found += [Command(name_of(page), words, False) for words in commands_in(span)]
    for command in list(found):
        if "bash" in command.words[:-1]:
            found += [command._replace(words=words) for words in commands_in(command.words[-1]) if words[0] in OURS]
    return tuple(found)


def shape_of(command: Command) -> str:
    """Program, subcommands, names of arguments and options, for instance `sar-search logs TRIAL --follow`.

    Raises:
        Unparsable: the program would refuse the command.
    """
    program, *rest = command.words
    if program == "sar-search":
        from pipeline.cli import cli

        return _click_shape(cli, program, rest, command.whole)
    if program in CLICK:
        return _click_shape(_group_of(program), program, rest, command.whole)
    if program == "dvc":
        return _dvc_shape(rest, command.whole)
    if program == "make":
        return " ".join(["make", *(re.sub(r"=.*", "=", word) for word in rest)])
    if program == "python" and rest[0] == "-m" and rest[1] == "pipeline.cli":
        return shape_of(command._replace(words=("sar-search", *rest[2:])))
    subcommands = {"python": 1, "docker": 1, "docker-compose": 1, "git": 1, "pip": 1, "uv": 1}.get(program, 0)
    return " ".join([program, *rest[:subcommands], *_options(rest[subcommands:])])


def assigned(command: Command, option: str) -> list[str]:
    """The KEY=VALUE words that an option of a command is given."""
    pairs = zip(command.words, command.words[1:], strict=False)
    return [value for name, value in pairs if name == option and "=" in value]


def _can_be_split(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return False
    return True


@cache
def _group_of(program: str) -> click.Command:
    command: click.Command
    if program == "mlflow":
        from mlflow.cli import cli as command
    else:
        from ray.scripts.scripts import cli as command
    return command


def _options(words: Sequence[str]) -> list[str]:
    return sorted({re.sub(r"=.*", "", word) for word in words if re.match(r"--?[A-Za-z]", word)})


def _click_shape(command: click.Command, name: str, rest: list[str], whole: bool) -> str:
    names, words = [name], list(rest)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        names.append(words.pop(0))
        if names[-1] not in command.commands:
            raise Unparsable(f"there is no {' '.join(names)}")
        command = command.commands[names[-1]]
    if isinstance(command, click.Group) or words == ["--help"]:
        known = {option for each in command.get_params(click.Context(command)) for option in each.opts}
        if unknown := set(words) - known:
            raise Unparsable(f"{' '.join(names)} has no {unknown}")
        if whole and not words:
            raise Unparsable(f"{' '.join(names)} needs a subcommand")
        return " ".join([*names, *words])
    context, problem = None, ""
    for more in [[]] if whole else [[], ["X"], ["X=1"]]:
        try:
            context = command.make_context(" ".join(names), [*words, *more])
            break
        except click.UsageError as error:
            problem = problem or error.format_message()
            if not isinstance(error, click.MissingParameter | click.BadOptionUsage):
                break
    if context is None:
        if whole or words:
            raise Unparsable(f"{' '.join([name, *rest])}: {problem}")
        return " ".join(names)  # a sentence may name a command without its arguments
    given = [
        each for each in command.params if context.get_parameter_source(str(each.name)) is ParameterSource.COMMANDLINE
    ]
    if name == "sar-search" and context.params.get("arguments"):
        _dvc_shape(["repro", *context.params["arguments"]], whole=True)
    arguments = [str(each.name).upper() for each in given if isinstance(each, click.Argument)]
    options = sorted(max(each.opts, key=len) for each in given if isinstance(each, click.Option))
    return " ".join([*names, *arguments, *options])


def _dvc_shape(rest: list[str], whole: bool) -> str:
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    attempts: Iterable[list[str]] = [rest]
    if not whole:
        attempts = [rest, [*rest, "base.seed=1"], *([] if _options(rest) else [[*rest, "--help"]])]
    said = StringIO()
    for words in attempts:
        try:
            with redirect_stdout(said), redirect_stderr(said):
                get_main_parser().parse_args(words)
        except DvcParserError:
            continue
        except SystemExit as end:
            if end.code:
                continue
        return " ".join(["dvc", *rest[: 2 if rest[0] in GROUPS_OF_DVC else 1], *_options(rest)])
    raise Unparsable(said.getvalue())
