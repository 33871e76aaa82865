"""The section of params.yaml about regularisers: one of each method, and a plug-in."""

from typing import Any, Literal

from pydantic import Field

from pipeline.config.schema.section import PathText, Section

Layers = Literal["last", "last_two", "last_three", "last_four", "all"] | list[int]


class MethodParams(Section):
    """A regulariser's section. Its fields are the keywords of the constructor that `METHODS` has under its name."""

    weight: float = Field(0.0, ge=0, le=1000, description="Peak weight of the loss; 0 turns the method off.")
    schedule: Literal["warmup_cosine", "warmup_linear", "constant"] = Field(
        "warmup_cosine",
        description="Schedule of the weight over the planned epochs; warmup_cosine and warmup_linear: from 0 to the "
        "peak over a tenth of them, then a cosine or a line towards 0; constant: the peak throughout.",
    )
    watch: bool = Field(
        False, description="Whether the method is also measured on the validation images if its weight is 0."
    )

    def config(self) -> dict[str, Any]:
        """Returns the constructor's keywords, with lists such as block indices as tuples."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in self.model_dump().items()}


class SpatialEntropyParams(MethodParams):
    weight: float = Field(0.0, ge=0, le=1000, description="Peak weight (lambda) of the loss; 0 turns the method off.")
    watch: bool = Field(
        True,
        description="Whether the method is also measured on the validation images if its weight is 0, as in a control.",
    )
    layers: Layers = Field(
        "last", description="Blocks whose similarity maps are regularised: a name, or a list of block indices."
    )
    query: Literal["cls", "mean"] = Field(
        "cls", description="Query of a similarity map; cls: the CLS token's; mean: the mean of the patches' queries."
    )
    threshold: float = Field(
        0.0, ge=-5, le=5, description="Threshold of a map, in standard deviations above its mean; the paper has 0."
    )
    connectivity: Literal[4, 8] = Field(
        8, description="Number of neighbours of a patch when patches are joined into components."
    )


class TotalVariationParams(MethodParams):
    layers: Layers = Field("last", description="Blocks whose similarity maps are smoothed.")
    query: Literal["cls", "mean"] = Field(
        "cls", description="Query of a similarity map, as in regularizer.spatial_entropy.query."
    )


class HeadDisagreementParams(MethodParams):
    layers: Layers = Field(
        "last", description="Blocks whose heads are made to give different outputs; each needs at least 2 heads."
    )


class RelativeLocalisationParams(MethodParams):
    pairs: int = Field(
        64, ge=1, le=100_000, description="Number of pairs of final tokens per image whose offset is predicted."
    )
    form: Literal["paper", "code"] = Field(
        "paper",
        description="Form of the offsets; paper: distances divided by the grid's side, of at most 7 x 7 tokens; "
        "code: as in the released code, signed, in patches, of square grids.",
    )


class GuidedTransferParams(MethodParams):
    source: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="The pretrained network whose attention is imitated: a timm name, a checkpoint's folder or file, "
        "or models:/name@alias; required if the method is on.",
    )
    layers: Layers = Field("all", description="Blocks whose attention is compared, in both networks.")
    with_cls: bool = Field(False, description="Whether the similarity of the CLS token with itself is compared too.")
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="Reduction of the squared differences over positions."
    )


class MaskSupervisionParams(MethodParams):
    layers: Layers = Field("last", description="Blocks whose attention is drawn to the object by the training masks.")
    query: Literal["cls", "mean"] = Field(
        "cls", description="Query of a similarity map, as in regularizer.spatial_entropy.query."
    )
    heads: Literal["each", "mean"] = Field(
        "each",
        description="Attention that is compared with the mask; each: that of each head; mean: the mean over heads.",
    )


class LocalityGuidanceParams(MethodParams):
    blocks: list[int] | None = Field(
        None,
        min_length=3,
        max_length=3,
        description="Three blocks, each guided by a stage of the guide; null: the first, the middle and the last.",
    )
    guide_depth: Literal[8, 14, 20, 26, 32, 44, 56, 110] = Field(
        20, description="Layers of the guide, a ResNet for small images; the published one has 56."
    )
    guide_epochs: int = Field(
        30,
        ge=1,
        le=100_000,
        description="Epochs for which the guide is trained on the training images, before the first trial.",
    )


class RegularizerParams(Section):
    spatial_entropy: SpatialEntropyParams = SpatialEntropyParams()
    total_variation: TotalVariationParams = TotalVariationParams()
    head_disagreement: HeadDisagreementParams = HeadDisagreementParams()
    relative_localisation: RelativeLocalisationParams = RelativeLocalisationParams()
    guided_transfer: GuidedTransferParams = GuidedTransferParams()
    mask_supervision: MaskSupervisionParams = MaskSupervisionParams()
    locality_guidance: LocalityGuidanceParams = LocalityGuidanceParams()
    plugin: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="A method of your own, my_package.my_module:MyRegularizer (docs/methods/your-own.md); null: none.",
    )
    plugin_weight: float = Field(0.0, ge=0, le=1_000_000, description="Peak weight of the plug-in; 0 turns it off.")
    plugin_schedule: Literal["warmup_cosine", "warmup_linear", "constant"] = Field(
        "warmup_cosine", description="Schedule of the plug-in's weight, as in regularizer.spatial_entropy.schedule."
    )
    plugin_watch: bool = Field(
        False, description="Whether the plug-in is also measured on the validation images if its weight is 0."
    )
    plugin_options: dict[str, bool | int | float | str | None] = Field(
        {}, description="Further keyword arguments of the plug-in's constructor; searched as a whole mapping."
    )

    @property
    def uses_guide(self) -> bool:
        """True if locality guidance has a weight or is watched."""
        return bool(self.locality_guidance.weight or self.locality_guidance.watch)

    @property
    def used_plugin(self) -> str | None:
        """The plug-in, if it has a weight or is watched; else None."""
        return self.plugin if self.plugin_weight or self.plugin_watch else None

    def configs(self) -> dict[str, dict[str, Any]]:
        """Returns the keywords of every method by its name, including the methods that are off."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        configs = {name: each.config() for name, each in sections.items() if isinstance(each, MethodParams)}
        if self.plugin is not None:
            configs["plugin"] = {
                "spec": self.plugin,
                "weight": self.plugin_weight,
                "schedule": self.plugin_schedule,
                "watch": self.plugin_watch,
                "options": dict(self.plugin_options),
            }
        return configs
