"""Regularisers as they will be used, tried out before a run: each must be there, and fit the network that it is for."""

from collections.abc import Iterator, Mapping

import torch

from pipeline.assembly import NO_WEIGHTS, regularizers_of
from pipeline.config import Params
from pipeline.data.sources import Preview
from pipeline.errors import UserError, told
from pipeline.models.build import build_model
from pipeline.models.settings import Weights
from pipeline.train.objective import Objective
from pipeline.tune.space import SearchSpace


def try_regularizers(
    params: Params, space: SearchSpace, source: Preview, weights: Mapping[str, Weights] = NO_WEIGHTS
) -> None:
    """Prepare the regularisers of params.yaml, of every control and of what the space can ask for.

    Plugins are imported and pretrained networks loaded; the network that is trained has shapes and no weights. weights:
    what the specifications of pretrained networks were resolved to.

    Raises:
        UserError: one of them cannot be had, or not with its network; says who asks for it.
    """
    tried: list[Params] = []
    for where, setting in every_setting(params, space):
        if any(each.model == setting.model and each.regularizer == setting.regularizer for each in tried):
            continue
        tried.append(setting)
        try:
            methods = regularizers_of(setting, weights)
            if any(method.active for method in methods.values()):
                side, classes = setting.prepare.image_size, len(source.classes)
                with torch.device("meta"):
                    model = build_model(
                        setting.model.config(),
                        num_classes=classes,
                        image_size=(side, side),
                        channels=source.channels,
                    )
                Objective(model, methods, planned_epochs=setting.train.epochs).close()
        except (UserError, ValueError) as error:
            raise UserError(told(f"{where}: {line}" for line in str(error).splitlines())) from None


def every_setting(params: Params, space: SearchSpace) -> Iterator[tuple[str, Params]]:
    """Settings in which every choice of regulariser and network occurs, with all weights as high as they go."""
    yield "params.yaml", params
    for name, values in space.controls.items():
        where = f"{space.file}: controls.{name}"
        yield where, params.with_values(values, where=where)
    varied = {path: each for path, each in space.dimensions.items() if path.startswith(("regularizer.", "model."))}
    highest = {path: each["choices"][-1] if "choices" in each else each["high"] for path, each in varied.items()}
    for path, each in varied.items():
        for choice in each.get("choices", [highest[path]]):
            yield space.file, params.with_values({**highest, path: choice}, where=space.file)
