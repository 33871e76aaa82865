"""All methods, by their name under `regularizer` in params.yaml.

A new method needs its file, a line here, and a section in `pipeline.config.schema` whose fields are the
keywords of its constructor.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pipeline.regularizers.base import Regularizer
from pipeline.regularizers.guide_network import GuideNetwork
from pipeline.regularizers.guided_transfer import GuidedTransfer
from pipeline.regularizers.head_disagreement import HeadDisagreement
from pipeline.regularizers.locality_guidance import LocalityGuidance
from pipeline.regularizers.mask_supervision import MaskSupervision
from pipeline.regularizers.plugin import build_plugin, requested_features
from pipeline.regularizers.relative_localisation import RelativeLocalisation
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.regularizers.total_variation import TotalVariation

METHODS: dict[str, type[Regularizer]] = {
    "spatial_entropy": SpatialEntropy,
    "total_variation": TotalVariation,
    "head_disagreement": HeadDisagreement,
    "relative_localisation": RelativeLocalisation,
    "guided_transfer": GuidedTransfer,
    "mask_supervision": MaskSupervision,
    "locality_guidance": LocalityGuidance,
}


def build_regularizers(
    configs: Mapping[str, Mapping[str, Any]],
    *,
    load_source: Callable[[str], nn.Module] | None = None,
    guide: GuideNetwork | None = None,
) -> dict[str, Regularizer]:
    """Builds a regulariser for each configuration with a weight other than 0 or with `watch`.

    Args:
        configs: Keywords of a method's constructor, by the method's name.
        load_source: Loads a pretrained network by its specification (a timm name, a checkpoint, models:/...).
            It is passed to methods with a parameter of this name. None: guided transfer cannot be built.
        guide: Guide of locality guidance, passed likewise. None: locality guidance is built, but cannot be
            prepared.

    Returns:
        Regularisers by the method's name.

    Raises:
        ValueError: If a method cannot be built as configured. The message begins with the wrong parameter.
    """
    built: dict[str, Regularizer] = {}
    for name, config in configs.items():
        if config["weight"] == 0 and not config["watch"]:
            continue
        make: Callable[..., Regularizer] = build_plugin if name == "plugin" else METHODS[name]
        try:
            built[name] = make(**config, **requested_features(make, {"load_source": load_source, "guide": guide}))
        except ValueError as error:
            # The parameters of a plug-in are siblings, plugin and plugin_options; those of a method are in its section.
            raise ValueError(f"regularizer.{error}" if name == "plugin" else f"regularizer.{name}.{error}") from error
    return built
