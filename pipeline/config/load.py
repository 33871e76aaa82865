"""The whole of params.yaml: read, checked, and accessed by dotted path.

Users set parameters only in `params.yaml`, and `pipeline.config.schema` is the only place where parameters are
defined. `load_params` reads the file (YAML 1.2, as DVC reads it), rejects unknown keys, and returns frozen models.
Their `config()` methods build the plain dataclasses that the rooms below take, so that these rooms do not need
pydantic.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from pipeline.config.messages import dotted_path, explain, percent_words, share_margin_words, unknown_key_message
from pipeline.config.schema.data_sections import BaseParams, PrepareParams, SplitParams
from pipeline.config.schema.regularizer_sections import RegularizerParams
from pipeline.config.schema.result_sections import (
    SHARE_MARGIN_LIMIT,
    EvaluateParams,
    PromoteParams,
    RegisterParams,
    ReportParams,
    RetrainParams,
    TrackingParams,
    is_share,
)
from pipeline.config.schema.search_section import SearchParams
from pipeline.config.schema.section import Section
from pipeline.config.schema.training_sections import ModelParams, TrainParams
from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, join_lines

Values = Mapping[str, Any]
"""Values of parameters by dotted path: a configuration, a control, the parameters that a search space varies."""

Content = Mapping[str, Any]
"""Content from which a fingerprint is computed, or a part of it, as JSON: sections of parameters, the space, hashes."""


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
        """Name of the image set, in a form that MLflow accepts: `digits`, or the name of the user's folder or
        archive.
        """
        prepare = self.prepare
        if prepare.dataset != "image_folder" or prepare.root is None:
            return prepare.dataset
        name = re.sub(r"(\.tar)?\.(tar|xz|gz|tgz|zip)$", "", PurePath(prepare.root).name, flags=re.IGNORECASE)
        return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100] or prepare.dataset

    @property
    def model_name(self) -> str:
        """Name of the model in the registry."""
        return self.register_.name or f"sar-{self.set_name}"

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment."""
        return self.tracking.experiment or f"sar-search/{self.set_name}"

    def with_values(self, values: Values, *, where: str) -> "Params":
        """Returns a copy with the parameters at the dotted paths replaced, validated like the file.

        Args:
            values: New values by dotted path.
            where: Source of the values, for error messages.

        Raises:
            UserError: a path is unknown, or a value has a wrong type or is out of bounds.
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
        """Returns the value at a dotted path.

        Raises:
            UserError: there is no parameter at this path.
        """
        _require_parameter(path, "parameters")
        node: Any = self.model_dump(by_alias=True)
        for key in path.split("."):
            node = node[key]
        return node


def load_params(path: Path) -> Params:
    """Reads and validates a parameter file.

    Args:
        path: The file.

    Raises:
        UserError: the file is missing, is not YAML, or has an unknown key or a value of a wrong type or out of
            bounds. The message names every mistake, with its dotted path, the given value and the allowed values.
    """
    return _validated(read_yaml(path, for_dvc=True), path.name)


@cache
def parameters() -> Mapping[str, FieldInfo]:
    """Returns every parameter by dotted path, in the order of the file."""
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
    """Returns the error message for a path that is no parameter, with the nearest parameter.

    Args:
        path: Dotted path.
    """
    return unknown_key_message(path, list(parameters()))


def _validated(tree: Any, where: str) -> Params:
    if tree is None:
        tree = {}
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        # pydantic reports a wrong value once for each member of a union. The message has one line a parameter.
        lines = {
            dotted_path(problem["loc"], parameters()): explain(problem, tree, parameters())
            for problem in reversed(error.errors())
        }
        raise UserError(join_lines(f"{where}: {line}" for line in reversed(lines.values()))) from None
    if percents := list(_percents(params)):
        raise UserError(join_lines(f"{where}: {line}" for line in percents))
    return params


def _percents(params: Params) -> Iterator[str]:
    """Yields error messages about percents or points that were given for shares of 1.

    These bounds depend on the metric: a log loss may have a margin of any size.

    Args:
        params: All parameters.
    """
    metric, least = params.evaluate.metric, params.promote.min_metric
    if not is_share(metric):
        return
    for path, margin in (("evaluate.margin", params.evaluate.margin), ("promote.margin", params.promote.margin)):
        if margin is not None and margin >= SHARE_MARGIN_LIMIT:
            yield share_margin_words(path, margin, metric)
    if least is not None and not 0 <= least <= 1:
        yield f"promote.min_metric: given {least:g}; {metric} lies between 0 and 1{percent_words(least)}"
