"""Methods of a comparison (`sar-search compare --run`): the named search spaces, treated alike.

A space varies parameters of its method, and may vary some of the recipe (learning rate, drop-path). A method
with a searched recipe must not be compared with a method or a control without one. So every recipe parameter
that any of the spaces varies is varied by every method's search, and by a search of the control. All searches
have the same budget. If no space varies the recipe, the control has nothing to tune and no search. There is
one control for all.

The parameters of the method are those under `regularizer`, and those that a space's control sets, such as
`model.spatial_prior.blocks: 0`. The parameters of the recipe are all others.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import Params, Values
from pipeline.errors import UserError, format_value, quote_name
from pipeline.files.atomic import write_whole
from pipeline.tune.space import SearchSpace, load_space
from pipeline.workspace import Workspace

CONTROL = "tuned_control"
"""Name of the control's search and of its folder."""

SPACE = "space.yaml"
"""File of a written space."""


@dataclass(frozen=True)
class ComparedMethod:
    """A search of a comparison.

    Attributes:
        name: name of the method.
        file: the space's file, as parameters name it.
        space: the space that is searched.
        written: whether the searched space differs from the file's, and so must be written.
        params: parameters of the search, except for its space.
    """

    name: str
    file: str
    space: SearchSpace
    written: bool
    params: Params

    def write(self, workspace: Workspace, folder: Path) -> Workspace:
        """Writes the search's parameters, and its space if no file has it, into its folder.

        Args:
            workspace: the checkout.
            folder: folder in which every search has its own.

        Returns:
            The workspace in which its stages run.
        """
        own = replace(workspace, own=folder / self.name)
        if self.written:
            write_whole(own.results / SPACE, json.dumps(self.space.content(), indent=1) + "\n")
        write_params(own, self.params.with_values({"search.space": self.space_in(own)}, where=self.name))
        return own

    def space_in(self, own: Workspace) -> str:
        """Returns the path of the space in a workspace from `write`, in the form of `search.space`."""
        if not self.written:
            return self.file
        path = own.results / SPACE
        return str(path.relative_to(own.root) if path.is_relative_to(own.root) else path)


@dataclass(frozen=True)
class Comparison:
    """The searches of a comparison.

    Attributes:
        methods: searches of the methods.
        control: search of the control; None if there is nothing to tune.
        recipe: recipe parameters that every search varies.
        added: recipe parameters that were added to each method's space, by the method's name.
        off: values that turn every method off, from the spaces' controls.
    """

    methods: tuple[ComparedMethod, ...]
    control: ComparedMethod | None
    recipe: tuple[str, ...]
    added: Mapping[str, tuple[str, ...]]
    off: Values

    @property
    def searches(self) -> tuple[ComparedMethod, ...]:
        """All searches in the order in which they run, the control's first."""
        return (*([self.control] if self.control else []), *self.methods)

    def against(self, control: str) -> str:
        """Returns the control in words.

        Args:
            control: name of the control.
        """
        if self.control is None:
            return f"{control}, with the recipe of params.yaml (the searches vary none of it)"
        return f"{control}, its recipe tuned by a search with the same budget ({', '.join(self.recipe)})"


def write_params(own: Workspace, params: Params) -> None:
    """Writes the parameters with which the stages of a method run.

    Args:
        own: the workspace of the method.
        params: the parameters.
    """
    write_whole(own.params, json.dumps(params.model_dump(mode="json", by_alias=True), indent=1) + "\n")


def read_comparison(workspace: Workspace, params: Params, given: str) -> Comparison:
    """Returns the comparison that `--run` asks for.

    Args:
        workspace: the checkout.
        params: its parameters.
        given: names of spaces, or paths of their files, with commas between.

    Raises:
        UserError: a name is unknown or given twice, a space is wrong, spaces contradict each other, or there
            is nothing to compare. The message names the choices.
    """
    files = _find_spaces(workspace, given)
    spaces = {
        name: load_space(workspace.root / file, params, shown_as=file)  # an absolute path stays one
        for name, file in files.items()
    }
    off = _merge(
        {space.file: _control_values(space, params) for space in spaces.values()}, f"controls.{params.retrain.control}"
    )
    own = {name: _recipe(space, off) for name, space in spaces.items()}
    recipe = _merge({spaces[name].file: dimensions for name, dimensions in own.items()}, "parameters")
    methods = []
    for name, space in spaces.items():
        turned_off = params.with_values(_control_values(space, params), where=space.file)
        if not space.dimensions.keys() - own[name].keys() and turned_off == params:
            raise UserError(
                f"{space.file} varies only parameters of the recipe ({', '.join(space.dimensions)}), and its control "
                "sets no parameter to another value than params.yaml has, so it is not a method to compare. Leave it "
                "out: if the space of a method varies such parameters, the control is tuned over them in any case."
            )
        whole = replace(space, dimensions={**space.dimensions, **recipe})
        fixed = {path: value for path, value in off.items() if path not in _control_values(space, params)}
        methods.append(ComparedMethod(name, files[name], whole, whole != space, _alike(params, fixed)))
    _check_different(methods)
    control = None
    if recipe:
        tuned = SearchSpace("the control's", recipe, {params.retrain.control: off})
        unprobed = _alike(params, {**off, "evaluate.probe": False})
        control = ComparedMethod(CONTROL, "", tuned, written=True, params=unprobed)
    added = {name: tuple(path for path in recipe if path not in spaces[name].dimensions) for name in spaces}
    return Comparison(tuple(_probe_once(methods)), control, tuple(recipe), added, off)


def _find_spaces(workspace: Workspace, given: str) -> dict[str, str]:
    """Returns the files of the spaces by the names of their methods."""
    there = {path.stem: path for path in sorted((workspace.root / "search_spaces").glob("*.yaml"))}
    known = f"there are {', '.join(there) or 'none'} in search_spaces/, or give a file's path"
    files: dict[str, str] = {}
    for asked in (part.strip() for part in given.split(",")):
        if not asked:
            raise UserError(f"--run: names of search spaces with commas between, as in sar,tv; {known}.")
        if "/" in asked or asked.endswith((".yaml", ".yml")):
            path = workspace.root / asked
            if not path.is_file():
                raise UserError(f"--run: no file {quote_name(asked)}; {known}.")
            name, file = re.sub(r"[^\w.-]", "-", path.stem), asked
        else:
            found = [name for name in there if _plain(name) == _plain(asked)]
            if not found:
                raise UserError(f"--run: no method {quote_name(asked)}; {known}.")
            name = asked if asked in found else found[0]
            file = str(there[name].relative_to(workspace.root))
        if name in files or name == CONTROL:
            twice = f"{quote_name(name)} is given twice" if name in files else f"no method may be called {CONTROL}"
            raise UserError(f"--run: {twice}; a method is called by its file's name, and each one once.")
        files[name] = file
    return files


def _plain(name: str) -> str:
    """Returns a name without case and separators, so that SP-ViT, spvit and sp_vit are equal."""
    return re.sub(r"[-_ ]", "", name).casefold()


def _control_values(space: SearchSpace, params: Params) -> Values:
    name = params.retrain.control
    if name not in space.controls:
        raise UserError(
            f"params.yaml: retrain.control: given {format_value(name)}; the controls of {space.file}: "
            f"{', '.join(space.controls)}. Methods are compared with one control, so each space must have it."
        )
    return space.controls[name]


def _recipe(space: SearchSpace, off: Values) -> dict[str, Values]:
    return {path: dimension for path, dimension in space.recipe().dimensions.items() if path not in off}


def _merge(found: Mapping[str, Values], what: str) -> Values:
    """Merges the values of several files.

    Args:
        found: values by path, for each file.
        what: what the values are, for the message.

    Raises:
        UserError: two files differ in a value, so that they cannot share a control.
    """
    merged: dict[str, object] = {}
    source: dict[str, str] = {}
    for file, values in found.items():
        for path, value in values.items():
            if path in merged and merged[path] != value:
                raise UserError(
                    f"{what}: {path} is {format_value(merged[path])} in {source[path]} and {format_value(value)} in "
                    f"{file}. Make them the same: these methods are compared with one control."
                )
            merged.setdefault(path, value)
            source.setdefault(path, file)
    return merged


def _alike(params: Params, values: Values) -> Params:
    """Returns the parameters of a search that shares its control with other searches.

    Args:
        params: the parameters.
        values: values that the controls of other spaces set.
    """
    return params.with_values({**values, "search.compare": "recipe"}, where="the spaces' controls")


def _probe_once(methods: Sequence[ComparedMethod]) -> list[ComparedMethod]:
    """Returns the methods, of which only one has the probe: one that uses the weights to be probed.

    Methods that begin from pretrained weights are preferred to methods that are guided by them.

    Raises:
        UserError: no method uses pretrained weights.
    """
    if not methods[0].params.evaluate.probe:
        return list(methods)
    from pipeline.preflight.validate import check_probe  # imports Ray, which `sar-search gc` does not need

    having = None
    for method in sorted(methods, key=lambda method: method.params.model.pretrained is None):
        try:
            check_probe(method.params, method.space)
        except UserError as error:
            refused = error
        else:
            having = method
            break
    if having is None:
        raise refused
    without = {"evaluate.probe": False}
    return [
        method if method is having else replace(method, params=method.params.with_values(without, where=method.name))
        for method in methods
    ]


def _check_different(methods: Iterable[ComparedMethod]) -> None:
    seen: list[ComparedMethod] = []
    for method in methods:
        for other in seen:
            if _content(method) == _content(other):
                raise UserError(
                    f"--run: {other.name} and {method.name} are the same search, since every search varies all "
                    "recipe parameters that any of them varies. Leave one out."
                )
        seen.append(method)


def _content(method: ComparedMethod) -> Sequence[Any]:
    return method.space.dimensions, method.space.controls
