"""A user's own method: `regularizer.plugin: my_package.my_module:MyRegularizer`.

The class is a subclass of `pipeline.regularizers.Regularizer`. Its constructor takes `weight` and the options
of `regularizer.plugin_options`, all as keywords:

    from pipeline.regularizers import Features, RequiredFeatures, RegularizerOutput, Regularizer

    class MyRegularizer(Regularizer):
        def __init__(self, *, weight: float, sharpness: float = 1.0) -> None:
            super().__init__(weight, RequiredFeatures(similarity="last"))
            self.sharpness = sharpness

        def forward(self, features: Features) -> RegularizerOutput:
            loss = features.similarity.square().mean() * self.sharpness
            return RegularizerOutput(loss, {"value": loss.detach()})

A constructor with a parameter `load_source` gets a function that loads a pretrained network by its
specification. The specification must be the option `source`, which is resolved before anything starts, as
that of guided transfer is.

The module is searched for as Python does, and last in the current folder.
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
"""Exceptions that a user's code may raise.

SystemExit is included, since it would end the command with an exit status that has another meaning there.
"""


def load_plugin(spec: str) -> type[Regularizer]:
    """Imports the module of a specification, and returns the class that it names.

    Args:
        spec: `module:Class`.

    Raises:
        ValueError: If `import_attribute` raises it, or the attribute is not a subclass of Regularizer or
            lacks `forward`. The message begins with `plugin: `.
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
    """Imports the module of a specification `module:name`, and returns the attribute that it names.

    Args:
        spec: Specification of a plug-in, or of another object of the user's own.
        needed: Text for the message about a malformed specification.
        is_wanted: Returns whether an attribute of the module is listed, if the module has none of that name.

    Raises:
        ValueError: If the specification is malformed, the module does not exist or fails when imported, or it
            has no such attribute. The message begins with `plugin: `.
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
    """Builds the method that a specification names. Schedule and watch are set on it afterwards.

    Args:
        spec: `module:Class`.
        weight: Passed to the constructor.
        options: Further keywords of the constructor.
        schedule: One of `regularizer_config.SCHEDULES`.
        watch: Whether the monitors are computed on validation images at weight 0 too.
        load_source: Passed to a constructor that has a parameter of this name.

    Raises:
        ValueError: If `load_plugin` raises it, the constructor does not take the options (the message then
            begins with `plugin_options: `), or it does not call the base class's constructor.
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
    """Returns the services whose names are among a constructor's parameters.

    Args:
        method: The class or function.
        services: Objects by the name of the parameter that takes them.
    """
    return {name: value for name, value in services.items() if name in inspect.signature(method).parameters}


def accepts_source(spec: str) -> bool:
    """Returns whether a plug-in's constructor takes `load_source`.

    False for a plug-in that cannot be imported; another check reports that.

    Args:
        spec: `module:Class`.
    """
    try:
        return bool(requested_features(load_plugin(spec), {"load_source": None}))
    except ValueError:
        return False


def plugin_source_hash(spec: str) -> str:
    """Returns the SHA-256, in hexadecimal, of the file that holds a plug-in's module.

    The module is not imported, but the packages above it are.

    Args:
        spec: `module:Class`.

    Raises:
        ValueError: If the specification is malformed, or the module does not exist or is in no file.
    """
    module, _ = _parts(spec)
    found = _find(spec, module)
    if not found.has_location or found.origin is None:
        raise ValueError(f"plugin: {spec}: {module} is in no file")
    with open(found.origin, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def plugin_hashes(specs: Iterable[str]) -> dict[str, str]:
    """Returns the first twelve hex digits of each plug-in's `plugin_source_hash`, by `plugin <module>`.

    Args:
        specs: Specifications `module:Class`.

    Raises:
        ValueError: If `plugin_source_hash` raises it.
    """
    return {f"plugin {spec.partition(':')[0]}": plugin_source_hash(spec)[:12] for spec in specs}


def _parts(spec: str, needed: str = NEEDED) -> tuple[str, str]:
    """Returns module and name of a specification. `needed` ends the message about a malformed one."""
    if not (match := SPEC.fullmatch(spec)):
        raise ValueError(f"plugin: given {spec[:100]!r}; {needed}")
    return match["module"], match["name"]


def _find(spec: str, module: str) -> ModuleSpec:
    """Returns where a module is found, without importing it.

    Raises:
        ValueError: If there is no such module, or a package above it fails when imported.
    """
    # `python -m` searches the current folder, but the installed command does not. A checkout's own module lies there.
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"plugin: {spec}: there is no module {error.name}{_looked()}") from None
    except FAILURES as error:  # a package above the module fails when imported
        raise ValueError(f"plugin: {spec}: {module} cannot be imported: {describe_failure(error)}") from error
    if found is None:
        raise ValueError(f"plugin: {spec}: there is no module {module}{_looked()}")
    return found


def _looked() -> str:
    return f"; put it into {os.getcwd()}, install it, or add its folder to PYTHONPATH"


def _is_method(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Regularizer) and value is not Regularizer


def describe_failure(error: BaseException) -> str:
    """Returns one line about the exception that a user's code raised.

    Args:
        error: One of `FAILURES`.
    """
    if isinstance(error, SystemExit):
        return (
            f"it calls sys.exit({'' if error.code is None else repr(error.code)[:300]}), which would end the whole run"
        )
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
