"""The methods of a comparison (`sar-search compare --run`): the spaces that are named, treated alike.

A space varies parameters of its method, and may vary some of the recipe (learning rate, drop-path). A method whose
recipe was searched is not to be compared with one whose recipe was not, nor with such a control. So what any of the
spaces varies of the recipe is varied by the search of each, and by one of the control's own, all of them with the same
budget; where none varies any of it, there is nothing of the control to tune, and it has no search. There is one
control for all.

Of the method are the parameters under `regularizer`, and those that a space's control sets, such as
`model.spatial_prior.blocks: 0`; of the recipe are the others.
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
"""The name of the control's own search, and of its folder, among the methods'."""

SPACE = "space.yaml"


@dataclass(frozen=True)
class ComparedMethod:
    """A search of a comparison. name: what it is called. file: the space's file, as parameters name it. space: as it is
    searched. written: whether that is another one than the file's, and so must be written. params: of this search, but
    for the space.
    """

    name: str
    file: str
    space: SearchSpace
    written: bool
    params: Params

    def write(self, workspace: Workspace, folder: Path) -> Workspace:
        """Write its parameters, and its space where no file has it, into its folder under `folder`; the workspace that
        its stages run in.
        """
        own = replace(workspace, own=folder / self.name)
        if self.written:
            write_whole(own.results / SPACE, json.dumps(self.space.content(), indent=1) + "\n")
        write_params(own, self.params.with_values({"search.space": self.space_in(own)}, where=self.name))
        return own

    def space_in(self, own: Workspace) -> str:
        """The file of its space in the workspace that `write` gives, as `search.space` names it."""
        if not self.written:
            return self.file
        path = own.results / SPACE
        return str(path.relative_to(own.root) if path.is_relative_to(own.root) else path)


@dataclass(frozen=True)
class Comparison:
    """What is searched and compared. recipe: the parameters of the recipe that every search varies. added: of these,
    what was added to a method's space, by its name. off: what turns every method off, as the spaces' controls have it.
    """

    methods: tuple[ComparedMethod, ...]
    control: ComparedMethod | None
    recipe: tuple[str, ...]
    added: Mapping[str, tuple[str, ...]]
    off: Values

    @property
    def searches(self) -> tuple[ComparedMethod, ...]:
        """Every search, in the order in which they run: the control's first."""
        return (*([self.control] if self.control else []), *self.methods)

    def against(self, control: str) -> str:
        """What the control is, in words. control: its name."""
        if self.control is None:
            return f"{control}, with the recipe of params.yaml, which the searches do not vary either"
        return f"{control}, its recipe tuned by a search with the same budget ({', '.join(self.recipe)})"


def write_params(own: Workspace, params: Params) -> None:
    """Write the parameters that the stages of a method run by."""
    write_whole(own.params, json.dumps(params.model_dump(mode="json", by_alias=True), indent=1) + "\n")


def read_comparison(workspace: Workspace, params: Params, given: str) -> Comparison:
    """What `--run` asks for. given: names of spaces, or paths of their files, with commas between.

    Raises:
        UserError: a name is none or given twice, a space is wrong, spaces contradict each other, or there is nothing to
            compare; says what there is.
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
        if not space.dimensions.keys() - own[name].keys():
            raise UserError(
                f"{space.file} varies the recipe alone ({', '.join(space.dimensions)}), so it is no method: where a "
                "method's space varies any of that, a control is tuned over it anyway. Leave it out."
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
    """The files of spaces, by the names of their methods."""
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
    """A name as people write it who do not look it up: SP-ViT, spvit and sp_vit are one."""
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
    """All of them together. found: values by path, by the file that has them.

    Raises:
        UserError: two files differ in a value, so that no control would be that of both.
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
    """The parameters of a search that shares its control with others. values: of what others' controls set."""
    return params.with_values({**values, "search.compare": "recipe"}, where="the spaces' controls")


def _probe_once(methods: Sequence[ComparedMethod]) -> list[ComparedMethod]:
    """The methods, of which one that uses the weights to be probed has the probe: one for the comparison. Those that
    begin from pretrained weights come before those that are guided by them.

    Raises:
        UserError: none uses any.
    """
    if not methods[0].params.evaluate.probe:
        return list(methods)
    from pipeline.preflight.validate import check_probe  # imports Ray, which `gc` does without

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
                    f"--run: {other.name} and {method.name} are one search, since every method's search varies what "
                    "any of them varies of the recipe. Leave one out."
                )
        seen.append(method)


def _content(method: ComparedMethod) -> Sequence[Any]:
    return method.space.dimensions, method.space.controls
