"""The section of params.yaml about regularisers: one of each method, and a user's own."""

from typing import Any, Literal

from pydantic import Field

from pipeline.config.schema.section import PathText, Section

Layers = Literal["last", "last_two", "last_three", "last_four", "all"] | list[int]


class MethodParams(Section):
    """A regulariser's section: its fields are the keywords of the constructor that `METHODS` has under its name."""

    weight: float = Field(0.0, ge=0, le=1000, description="Peak weight of the loss; 0 turns the method off.")
    schedule: Literal["warmup_cosine", "warmup_linear", "constant"] = Field(
        "warmup_cosine",
        description="Schedule of the weight over the planned epochs: a tenth of them from 0 to the peak, then a cosine "
        "or a line towards 0; or the peak throughout.",
    )
    watch: bool = Field(False, description="Also measured on the validation images where the weight is 0.")

    def config(self) -> dict[str, Any]:
        """The constructor's keywords; a list, as of blocks, as a tuple."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in self.model_dump().items()}


class SpatialEntropyParams(MethodParams):
    weight: float = Field(0.0, ge=0, le=1000, description="Peak weight (lambda) of the loss; 0 turns the method off.")
    watch: bool = Field(
        True, description="Also measured on the validation images where the weight is 0, as in a control."
    )
    layers: Layers = Field(
        "last", description="Blocks whose similarity maps are regularised: a name, or a list of block indices."
    )
    query: Literal["cls", "mean"] = Field(
        "cls", description="Whose similarity with the patches: the CLS token's, or the mean of the patches' own."
    )
    threshold: float = Field(
        0.0, ge=-5, le=5, description="Cut of a map, in standard deviations above its mean; 0 is the paper's."
    )
    connectivity: Literal[4, 8] = Field(8, description="Neighbours that join patches into one component.")


class TotalVariationParams(MethodParams):
    layers: Layers = Field("last", description="Blocks whose similarity maps are smoothed.")
    query: Literal["cls", "mean"] = Field("cls", description="As regularizer.spatial_entropy.query.")


class HeadDisagreementParams(MethodParams):
    layers: Layers = Field("last", description="Blocks whose heads are to give different outputs; of 2 heads or more.")


class RelativeLocalisationParams(MethodParams):
    pairs: int = Field(64, ge=1, le=100_000, description="Pairs of final tokens an image whose offset is guessed.")
    form: Literal["paper", "code"] = Field(
        "paper",
        description="Offsets as the paper has them (distances, divided by the grid's side, of at most 7 x 7 tokens), "
        "or as the released code (signed, in patches, of square grids).",
    )


class GuidedTransferParams(MethodParams):
    source: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="The pretrained network whose attention guides: a timm name, a checkpoint's folder or file, or "
        "models:/name@alias; needed where the method is on.",
    )
    layers: Layers = Field("all", description="Blocks whose attention is compared, in both networks.")
    with_cls: bool = Field(False, description="Compare the entry of the CLS token with itself too.")
    reduction: Literal["mean", "sum"] = Field("mean", description="Of the squared differences, over positions.")


class MaskSupervisionParams(MethodParams):
    layers: Layers = Field("last", description="Blocks whose attention is drawn to the object by the training masks.")
    query: Literal["cls", "mean"] = Field("cls", description="As regularizer.spatial_entropy.query.")
    heads: Literal["each", "mean"] = Field(
        "each", description="Whose attention is compared with the mask: each head's, or the mean over heads."
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
        30, ge=1, le=100_000, description="Epochs of the guide on the training images, before the first trial."
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
        description="A method of your own, my_package.my_module:MyRegularizer (docs/methods.md); null: none.",
    )
    plugin_weight: float = Field(0.0, ge=0, le=1_000_000, description="Its peak weight; 0 turns it off.")
    plugin_schedule: Literal["warmup_cosine", "warmup_linear", "constant"] = Field(
        "warmup_cosine", description="Schedule of its weight, as regularizer.spatial_entropy.schedule."
    )
    plugin_watch: bool = Field(False, description="Also measured on the validation images where its weight is 0.")
    plugin_options: dict[str, bool | int | float | str | None] = Field(
        {}, description="Further keyword arguments of its constructor; searched as a whole mapping."
    )

    @property
    def uses_guide(self) -> bool:
        """Whether locality guidance has a weight or is watched."""
        return bool(self.locality_guidance.weight or self.locality_guidance.watch)

    @property
    def used_plugin(self) -> str | None:
        """The plugin, where it has a weight or is watched."""
        return self.plugin if self.plugin_weight or self.plugin_watch else None

    def configs(self) -> dict[str, dict[str, Any]]:
        """Every method's keywords by its name, those that are off too."""
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
