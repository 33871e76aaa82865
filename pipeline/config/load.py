"""The whole of params.yaml: read, checked, found by dotted path.

`params.yaml` is the only place where a user sets anything, and `pipeline.config.schema` the only place where a
parameter is defined. `load_params` reads the file (YAML 1.2, as DVC reads it), refuses what it does not know, and
returns frozen models; their `config()` methods build the plain dataclasses that the rooms below take, so that none of
those needs pydantic.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from pipeline.config.messages import dotted_path, explain, unknown_key_message
from pipeline.config.schema.data_sections import BaseParams, PrepareParams, SplitParams
from pipeline.config.schema.regularizer_sections import RegularizerParams
from pipeline.config.schema.result_sections import (
    EvaluateParams,
    PromoteParams,
    RegisterParams,
    ReportParams,
    RetrainParams,
    TrackingParams,
)
from pipeline.config.schema.search_section import SearchParams
from pipeline.config.schema.section import Section
from pipeline.config.schema.training_sections import ModelParams, TrainParams
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, join_lines

Values = Mapping[str, Any]
"""Values of parameters by their dotted paths: a configuration, a control, what a search space leaves open."""

Content = Mapping[str, Any]
"""What decides a search, or a part of that, as JSON has it: sections of parameters, the space, hashes."""


class Params(Section):
    """The whole of params.yaml."""

    base: BaseParams = BaseParams()
    prepare: PrepareParams = PrepareParams()
    split: SplitParams = SplitParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()
    regularizer: RegularizerParams = RegularizerParams()
    search: SearchParams = SearchParams()
    retrain: RetrainParams = RetrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()
    register_: RegisterParams = Field(RegisterParams(), alias="register")
    promote: PromoteParams = PromoteParams()
    tracking: TrackingParams = TrackingParams()

    @property
    def set_name(self) -> str:
        """What the image set is called: `digits`, or the name of the user's folder or archive, as MLflow takes it."""
        prepare = self.prepare
        if prepare.dataset != "image_folder" or prepare.root is None:
            return prepare.dataset
        name = re.sub(r"(\.tar)?\.(tar|xz|gz|tgz|zip)$", "", PurePath(prepare.root).name, flags=re.IGNORECASE)
        return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100] or prepare.dataset

    @property
    def model_name(self) -> str:
        """The model's name in the registry."""
        return self.register_.name or f"sar-{self.set_name}"

    @property
    def experiment(self) -> str:
        """The name of the MLflow experiment."""
        return self.tracking.experiment or f"sar-search/{self.set_name}"

    def with_values(self, values: Values, *, where: str) -> "Params":
        """A copy with the parameters at the dotted paths replaced, validated as the file is.

        Raises:
            UserError: an unknown path, a wrong type or a value out of bounds; `where` says who gave it.
        """
        tree = self.model_dump(by_alias=True)
        for path, value in values.items():
            _require_parameter(path, where)
            node = tree
            *parents, leaf = path.split(".")
            for key in parents:
                node = node[key]
            node[leaf] = value
        return _validated(tree, where)

    def value(self, path: str) -> Any:
        """The value at a dotted path.

        Raises:
            UserError: no such parameter.
        """
        _require_parameter(path, "parameters")
        node: Any = self.model_dump(by_alias=True)
        for key in path.split("."):
            node = node[key]
        return node


def load_params(path: Path) -> Params:
    """Read and validate a parameter file.

    Raises:
        UserError: no such file, not YAML, an unknown key, a wrong type or a value out of bounds. Every mistake is
            named at once, with its dotted path, what was given and what is allowed.
    """
    return _validated(read_yaml(path, for_dvc=True), path.name)


@cache
def parameters() -> Mapping[str, FieldInfo]:
    """Every parameter by its dotted path, in the order of the file."""
    return dict(_leaves(Params, ""))


def _leaves(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        path = prefix + (field.alias or name)
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from _leaves(annotation, path + ".")
        else:
            yield path, field


def _require_parameter(path: str, where: str) -> None:
    if path not in parameters():
        raise UserError(f"{where}: {unknown_parameter(path)}")


def unknown_parameter(path: str) -> str:
    """The sentence about a path that is not a parameter, with the nearest one that is."""
    return unknown_key_message(path, list(parameters()))


def _validated(tree: Any, where: str) -> Params:
    if tree is None:
        tree = {}
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        # A value that no member of a union takes is reported once a member; one line a parameter says it.
        lines = {
            dotted_path(problem["loc"], parameters()): explain(problem, tree, parameters())
            for problem in reversed(error.errors())
        }
        raise UserError(join_lines(f"{where}: {line}" for line in reversed(lines.values()))) from None
