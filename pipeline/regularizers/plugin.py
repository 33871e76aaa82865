"""A user's own method: `regularizer.plugin: my_package.my_module:MyRegularizer`.

The class subclasses `pipeline.regularizers.Regularizer`, and its constructor takes `weight` and whatever options
`regularizer.plugin_options` names, all as keywords:

    from pipeline.regularizers import Features, RequiredFeatures, RegularizerOutput, Regularizer

    class MyRegularizer(Regularizer):
        def __init__(self, *, weight: float, sharpness: float = 1.0) -> None:
            super().__init__(weight, RequiredFeatures(similarity="last"))
            self.sharpness = sharpness

        def forward(self, features: Features) -> RegularizerOutput:
            loss = features.similarity.square().mean() * self.sharpness
            return RegularizerOutput(loss, {"value": loss.detach()})

A constructor that also names `load_source` is given the function that loads a pretrained network by its specification,
which must be the option `source`: it is resolved before anything starts, as that of guided transfer is.

The module is looked for as Python does, and last in the folder that the command runs in.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

from torch import nn

from pipeline.regularizers.base import Regularizer

SPEC = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")
NEEDED = "needed: my_package.my_module:MyRegularizer, a subclass of pipeline.regularizers.Regularizer"

FAILURES = (Exception, SystemExit)
"""What a user's code may fail with. An exit would end the command, with a status that means another thing there."""


def load_plugin(spec: str) -> type[Regularizer]:
    """The class that a specification names; its module is imported.

    Raises:
        ValueError: not module:name, no such module, a module that fails when imported, no such attribute, or something
            that is no Regularizer, or one without a `forward`. Begins with `plugin: `.
    """
    found = import_attribute(spec, needed=NEEDED, is_wanted=_is_method)
    if not _is_method(found):
        name = spec.partition(":")[2]
        what = f"the class {name}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ValueError(f"plugin: {spec}: is {what}; {NEEDED}")
    if missing := sorted(found.__abstractmethods__):
        raise ValueError(f"plugin: {spec}: does not define {', '.join(missing)}, which every Regularizer must")
    return found  # type: ignore[no-any-return]


def import_attribute(spec: str, *, needed: str, is_wanted: Callable[[Any], bool]) -> Any:
    """What a specification `module:name` names; the module is imported.

    Args:
        spec: Of a plug-in, or of anything else of a user's own.
        needed: What to say of one that is no specification.
        is_wanted: Which of the module's own attributes are listed where it has none of that name.

    Raises:
        ValueError: not module:name, no such module, a module that fails when imported, no such attribute. Begins with
            `plugin: `.
    """
    module, name = _parts(spec, needed)
    _find(spec, module)
    try:
        imported = importlib.import_module(module)
    except FAILURES as error:  # a user's module may fail in any way
        raise ValueError(f"plugin: {spec}: {module} cannot be imported: {describe_failure(error)}") from error
    if not hasattr(imported, name):
        own = [
            key
            for key, value in vars(imported).items()
            if is_wanted(value) and getattr(value, "__module__", None) == module
        ]
        there = f"; it defines {', '.join(own)}" if own else ""
        raise ValueError(f"plugin: {spec}: {module} has no {name}{there}")
    return getattr(imported, name)


def build_plugin(
    spec: str,
    *,
    weight: float,
    options: Mapping[str, Any],
    schedule: str,
    watch: bool,
    load_source: Callable[[str], nn.Module] | None = None,
) -> Regularizer:
    """The method that a specification names, with its options; schedule and watch are set on it afterwards.

    load_source: handed on to a constructor that names it.

    Raises:
        ValueError: as `load_plugin`; or the constructor does not take the options (`plugin_options: `).
    """
    method: Callable[..., Regularizer] = load_plugin(spec)
    try:
        built = method(weight=weight, **options, **requested_features(method, {"load_source": load_source}))
    except FAILURES as error:  # a user's constructor may fail in any way
        raise ValueError(f"plugin_options: {spec} does not take {dict(options)}: {describe_failure(error)}") from error
    if not hasattr(built, "needs"):
        raise ValueError(
            f"plugin: {spec}: its constructor does not call super().__init__(weight, RequiredFeatures(...))"
        )
    built.weight, built.schedule, built.watch = weight, schedule, watch
    return built


def requested_features(method: Callable[..., Any], services: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the services that a constructor names among its parameters."""
    return {name: value for name, value in services.items() if name in inspect.signature(method).parameters}


def accepts_source(spec: str) -> bool:
    """Whether a plugin loads a pretrained network; not one that cannot be imported, which is told elsewhere."""
    try:
        return bool(requested_features(load_plugin(spec), {"load_source": None}))
    except ValueError:
        return False


def plugin_source_hash(spec: str) -> str:
    """SHA-256, in hexadecimal, of the file that a plugin's module is in; the module is not imported, its packages are.

    Raises:
        ValueError: not module:name, no such module, or one that is in no file.
    """
    module, _ = _parts(spec)
    found = _find(spec, module)
    if not found.has_location or found.origin is None:
        raise ValueError(f"plugin: {spec}: {module} is in no file")
    with open(found.origin, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def plugin_hashes(specs: Iterable[str]) -> dict[str, str]:
    """Twelve hex digits of each plugin's `plugin_source_hash`, by the word plugin and its module.

    Raises:
        ValueError: as there.
    """
    return {f"plugin {spec.partition(':')[0]}": plugin_source_hash(spec)[:12] for spec in specs}


def _parts(spec: str, needed: str = NEEDED) -> tuple[str, str]:
    if not (match := SPEC.fullmatch(spec)):
        raise ValueError(f"plugin: given {spec[:100]!r}; {needed}")
    return match["module"], match["name"]


def _find(spec: str, module: str) -> ModuleSpec:
    # `python -m` looks in the current folder; the installed command does not, and a checkout's own module lies there.
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"plugin: {spec}: there is no module {error.name}{_looked()}") from None
    except FAILURES as error:  # a package above it fails when imported
        raise ValueError(f"plugin: {spec}: {module} cannot be imported: {describe_failure(error)}") from error
    if found is None:
        raise ValueError(f"plugin: {spec}: there is no module {module}{_looked()}")
    return found


def _looked() -> str:
    return f"; put it into {os.getcwd()}, install it, or add its folder to PYTHONPATH"


def _is_method(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Regularizer) and value is not Regularizer


def describe_failure(error: BaseException) -> str:
    """What a user's code failed with, on one line."""
    if isinstance(error, SystemExit):
        return (
            f"it calls sys.exit({'' if error.code is None else repr(error.code)[:300]}), which would end the whole run"
        )
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
