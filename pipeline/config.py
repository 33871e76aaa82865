"""Every parameter of the pipeline: its type, its default, its bounds and a sentence about it.

`params.yaml` is the only place where a user sets anything, and this module the only place where a parameter is
defined. `load_params` reads the file (YAML 1.2, as DVC reads it), refuses what it does not know, and returns frozen
models; their `config()` methods build the plain dataclasses that the rooms below take, so that none of those needs
pydantic.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipeline.errors import UserError, named, shown, told
from pipeline.models.settings import ModelConfig, SpatialPriorConfig
from pipeline.parsing import read_yaml
from pipeline.train.settings import MOST_PIECES, TrainConfig


class Section(BaseModel):
    """A part of params.yaml. Unknown keys are refused, nothing is converted, nothing can be changed after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BaseParams(Section):
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything drawn: splits, settings, weights, batches.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks run; auto: CUDA if there is.")


class PrepareParams(Section):
    dataset: Literal["digits", "image_folder"] = Field(
        "digits", description="Source of the images: the digits that come with scikit-learn, or your own pictures."
    )
    root: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="For image_folder: a folder or archive (.tar, .tar.xz, .tar.gz, .tgz, .zip) that holds "
        "<class>/*, or train/<class>/* and test/<class>/*; a relative path starts at the checkout.",
    )
    image_size: int = Field(12, ge=4, le=1024, description="Side of the prepared square images, in pixels.")
    skip_broken: bool = Field(
        False, description="Leave out files that are no pictures, instead of refusing them; they are named either way."
    )


class SplitParams(Section):
    val_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the non-test images that the search scores on.")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of all images kept for `evaluate` alone, for sets without a test split."
    )
    train_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the non-test images, in train and in val, that is used at all; smaller shares lie in "
        "larger ones.",
    )


class SpatialPriorParams(Section):
    blocks: int = Field(
        0, ge=0, le=1000, description="First blocks whose attention has a learned spatial prior (SP-ViT); 0: none."
    )
    hidden: int | None = Field(
        None, ge=1, le=100_000, description="Width of the prior's MLP of a head; null: the channels of a head."
    )
    positional_conv: bool = Field(
        False,
        description="A depthwise 3 x 3 convolution after every block, as in SP-ViT's code; with 0 blocks, the "
        "convolutions alone.",
    )

    def config(self) -> SpatialPriorConfig:
        return SpatialPriorConfig(**self.model_dump())


class ModelParams(Section):
    name: str = Field(
        "vit_tiny_patch16_224", min_length=1, description="A Vision Transformer, Swin or PVTv2 of timm, by name."
    )
    kwargs: dict[str, bool | int | float | str | list[int] | None] = Field(
        {"patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4},
        description="Keyword arguments that override the named network's own (patch_size, embed_dim, depth, ...).",
    )
    init: Literal["xavier", "timm"] = Field(
        "xavier", description="xavier learns small sets in few epochs; timm keeps timm's own."
    )
    drop_path: float = Field(0.1, ge=0, lt=1, description="Stochastic depth rate of the last block.")
    last_block: Literal["standard", "no_skip"] = Field(
        "standard", description="no_skip: no residual around the last block's attention, as in SAR's own runs."
    )
    spatial_prior: SpatialPriorParams = SpatialPriorParams()
    pretrained: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Weights that the network begins from: a timm name, a checkpoint's folder, a .safetensors or .pth "
        "file (a relative path starts at the checkout), or models:/name@alias; null: fresh ones.",
    )

    def config(self) -> ModelConfig:
        """What the network is; what it begins from is no part of that, and its checkpoints do without."""
        return ModelConfig(
            name=self.name,
            kwargs=dict(self.kwargs),
            init=self.init,
            drop_path=self.drop_path,
            last_block=self.last_block,
            spatial_prior=self.spatial_prior.config(),
        )


class TrainParams(Section):
    epochs: int = Field(16, ge=1, le=100_000, description="Planned epochs of a full run; schedules are laid over them.")
    batch_size: int = Field(64, ge=1, le=1_000_000, description="Images a step.")
    lr: float = Field(2e-3, gt=0, le=10, description="Peak learning rate.")
    min_lr: float = Field(0.0, ge=0, le=10, description="Learning rate that the schedule ends at.")
    warmup_epochs: int = Field(1, ge=0, le=100_000, description="Epochs of linear learning-rate warm-up.")
    warmup_lr: float | None = Field(
        None, ge=0, le=10, description="Learning rate of the first warm-up step; null: one step's share of lr."
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Course of the learning rate after the warm-up: to min_lr, or lr throughout."
    )
    optimizer: Literal["adamw", "nadamw", "lamb", "lion", "sgd"] = Field(
        "adamw", description="timm's optimizer of that name, with timm's own settings; sgd has Nesterov momentum 0.9."
    )
    weight_decay: float = Field(
        0.3, ge=0, le=10, description="Weight decay, decoupled in adamw, nadamw and lion; not on biases and norms."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    clip_grad: float | None = Field(None, gt=0, description="Largest norm of the gradient; null: not clipped.")
    accumulate: int = Field(
        1,
        ge=1,
        le=MOST_PIECES,
        description="Pieces that a batch is run in, whose gradients add up to its own: more take less memory and more "
        "time, and the optimizer's steps stay those of the whole batch.",
    )
    mixup: float = Field(
        0.0, ge=0, le=100, description="Mixup's alpha: batches are blended with their mirror order; 0: none."
    )
    cutmix: float = Field(
        0.0, ge=0, le=100, description="CutMix's alpha: a rectangle comes from another image of the batch; 0: none."
    )
    mixup_prob: float = Field(1.0, gt=0, le=1, description="Probability that a batch is mixed, where either is on.")
    mixup_switch: float = Field(
        0.5, ge=0, le=1, description="Probability of CutMix in a mixed batch, where both are on."
    )
    augment: Literal["none", "light", "deit"] = Field(
        "none",
        description="Of training images; light: shifted by up to an eighth of the side; deit: resized crops and "
        "RandAugment as in DeiT; both mirrored at random where flip is on.",
    )
    flip: bool = Field(
        True, description="Whether augment mirrors images; false where a mirror image is another thing, as with digits."
    )
    erasing: float = Field(
        0.0, ge=0, le=1, description="Probability that a rectangle of a training image is replaced by noise."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of averaged weights, which are then scored and kept; 0: no average."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of forward passes in training, by autocast; scoring and regularisers stay in float32."
    )
    grad_checkpointing: bool = Field(
        False, description="Compute activations again going backward: less memory, more time, the same gradients."
    )

    def config(self) -> TrainConfig:
        return TrainConfig(**self.model_dump())


Layers = Literal["last", "last_two", "last_three", "last_four", "all"] | list[int]


class MethodParams(Section):
    """A regulariser's section: its fields are the keywords of the constructor that `METHODS` has under its name."""

    weight: float = Field(0.0, ge=0, le=1000, description="Peak weight of the loss; 0 turns the method off.")
    schedule: Literal["warmup_cosine", "warmup_linear", "constant"] = Field(
        "warmup_cosine",
        description="Course of the weight over the planned epochs: a tenth of them from 0 to the peak, then a cosine "
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
    source: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="The pretrained network whose attention guides: a timm name, a checkpoint's folder or file, or "
        "models:/name@alias; needed where the method is on.",
    )
    layers: Layers = Field("all", description="Blocks whose attention is compared, in both networks.")
    with_cls: bool = Field(False, description="Compare the entry of the CLS token with itself too.")
    reduction: Literal["mean", "sum"] = Field("mean", description="Of the squared differences, over positions.")


class RegularizerParams(Section):
    spatial_entropy: SpatialEntropyParams = SpatialEntropyParams()
    total_variation: TotalVariationParams = TotalVariationParams()
    head_disagreement: HeadDisagreementParams = HeadDisagreementParams()
    relative_localisation: RelativeLocalisationParams = RelativeLocalisationParams()
    guided_transfer: GuidedTransferParams = GuidedTransferParams()
    plugin: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="A method of your own, my_package.my_module:MyRegularizer (docs/methods.md); null: none.",
    )
    plugin_weight: float = Field(0.0, ge=0, le=1_000_000, description="Its peak weight; 0 turns it off.")
    plugin_schedule: Literal["warmup_cosine", "warmup_linear", "constant"] = Field(
        "warmup_cosine", description="Its course of the weight, as regularizer.spatial_entropy.schedule."
    )
    plugin_watch: bool = Field(False, description="Also measured on the validation images where its weight is 0.")
    plugin_options: dict[str, bool | int | float | str | None] = Field(
        {}, description="Further keyword arguments of its constructor; searched as a whole mapping."
    )

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


class SamplerParams(Section):
    name: Literal["tpe", "random"] = Field("tpe", description="How settings are proposed.")
    startup_trials: int = Field(
        5, ge=1, le=1_000_000, description="Settings drawn at random before the sampler learns from results."
    )


class SchedulerParams(Section):
    name: Literal["asha", "none"] = Field("asha", description="How unpromising trials are stopped early.")
    grace_period: int = Field(
        4, ge=1, le=100_000, description="Epochs that every trial runs; past the regulariser's warm-up."
    )
    reduction_factor: float = Field(2.0, gt=1, le=16, description="At each rung the best 1/factor goes on.")


class ConfirmParams(Section):
    top: int = Field(2, ge=1, le=1000, description="So many of the best settings are trained again, and each control.")
    seeds: int = Field(2, ge=0, le=100, description="Further seeds that they are trained with; 0: no confirmation.")


class BudgetParams(Section):
    hours: float | None = Field(None, gt=0, le=1e9, description="Wall-clock hours of the search; null: no limit.")
    gpu_hours: float | None = Field(None, gt=0, le=1e9, description="GPU-hours of its trials; null: no limit.")
    cost: float | None = Field(
        None, gt=0, le=1e9, description="Cost of its trials, in the unit of the price; null: no limit."
    )
    price_per_gpu_hour: float = Field(
        0.0, ge=0, le=1e6, description="What a GPU costs an hour, for search.budget.cost and for the summary."
    )
    target: float | None = Field(
        None, gt=0, le=1, description="No further trial starts once one has completed with this validation accuracy."
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="No further trial starts after so many in a row that were no better.",
    )


class SearchParams(Section):
    space: str = Field(
        "search_spaces/sar.yaml", min_length=1, max_length=1000, description="File that says what varies and how."
    )
    trials: int = Field(12, ge=1, le=1_000_000, description="Settings tried, the controls not counted.")
    max_concurrent_trials: int | None = Field(
        None, ge=1, le=1_000_000, description="Trials at a time; null: as many as fit."
    )
    cpus_per_trial: int = Field(1, ge=1, le=1024, description="CPU cores, and threads, of one trial.")
    gpus_per_trial: float | None = Field(
        None, ge=0, le=64, description="Share of a GPU for one trial; null: 1 where there is a GPU, else 0."
    )
    sampler: SamplerParams = SamplerParams()
    scheduler: SchedulerParams = SchedulerParams()
    confirm: ConfirmParams = ConfirmParams()
    compare: Literal["recipe", "same_budget"] = Field(
        "recipe",
        description="What the control is: the recipe as it stands; or, same_budget, tuned by a search of its own over "
        "the space without the regulariser (where nothing is left to tune, as many further seeds as there are trials).",
    )
    budget: BudgetParams = BudgetParams()
    checkpoint_every: int = Field(1, ge=1, le=100_000, description="Epochs between a trial's checkpoints.")
    max_failures: int = Field(
        2, ge=0, le=1_000_000, description="Times a trial is started again after its worker died."
    )
    retry_out_of_memory: bool = Field(
        True, description="A trial that runs out of memory goes on once with its batches in twice as many pieces."
    )
    keep_checkpoints: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="Best trials whose last checkpoint is kept; those of controls always are.",
    )
    max_empty_share: float = Field(
        0.05, ge=0, le=1, description="A setting with a larger share of empty maps is not chosen as the best."
    )


class RetrainParams(Section):
    seeds: int = Field(5, ge=1, le=1000, description="Runs of the best setting, and of its control, on train + val.")
    control: str = Field("baseline", min_length=1, description="The control of the space that the verdict is against.")
    max_concurrent_runs: int | None = Field(None, ge=1, le=1000, description="Runs at a time; null: as many as fit.")
    cpus_per_run: int = Field(1, ge=1, le=1024, description="CPU cores, and threads, of one run.")
    gpus_per_run: float | None = Field(None, ge=0, le=64, description="As search.gpus_per_trial.")


class EvaluateParams(Section):
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the interval of the difference.")
    margin: float = Field(
        0.01, gt=0, lt=1, description="Differences in accuracy below this count as none (0.01: one point)."
    )


class ReportParams(Section):
    attention_images: int = Field(6, ge=1, le=64, description="Test images whose attention is shown.")


class RegisterParams(Section):
    name: str | None = Field(
        None, min_length=1, max_length=200, description="Name in the MLflow registry; null: sar- and the set's name."
    )


class TrackingParams(Section):
    uri: str | None = Field(
        None,
        max_length=1000,
        description="MLflow's address; null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the checkout.",
    )
    experiment: str | None = Field(
        None, min_length=1, max_length=200, description="MLflow experiment; null: sar-search/ and the set's name."
    )
    attention_images: int = Field(4, ge=0, le=64, description="Validation images whose attention is logged.")


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

    def with_values(self, values: Mapping[str, Any], *, where: str) -> "Params":
        """A copy with the parameters at the dotted paths replaced, validated as the file is.

        Raises:
            UserError: an unknown path, a wrong type or a value out of bounds; `where` says who gave it.
        """
        tree = self.model_dump(by_alias=True)
        for path, value in values.items():
            _require_known(path, where)
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
        _require_known(path, "parameters")
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
    return _validated(read_yaml(path), path.name)


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


def _require_known(path: str, where: str) -> None:
    if path not in parameters():
        raise UserError(f"{where}: {unknown_parameter(path)}")


def unknown_parameter(path: str) -> str:
    """The sentence about a path that is not a parameter, with the nearest one that is."""
    known = list(parameters())
    if any(name.startswith(path + ".") for name in known):
        below = [name for name in known if name.startswith(path + ".")]
        return f"{path} is a group, not a parameter; it holds {', '.join(below)}"
    nearest = _nearest(path, known)
    return f"unknown parameter {named(path)}" + (f"; did you mean {nearest}?" if nearest else "")


def _nearest(path: str, known: list[str]) -> str | None:
    # A typo usually leaves the other parts of the path right, so the last part is compared first, with its neighbours.
    parent, _, leaf = path.rpartition(".")
    names = [*known, *dict.fromkeys(part for name in known for part in _prefixes(name))]
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == parent}
    if close := difflib.get_close_matches(leaf, siblings, n=1):
        return siblings[close[0]]
    # Then it may stand in the wrong place, or another part be wrong. Whole paths are compared only where that part is:
    # below a section that there is, all of them look alike.
    elsewhere = [name for name in names if name.rpartition(".")[2] == leaf]
    if len(elsewhere) == 1:
        return elsewhere[0]
    close = [] if parent and siblings else difflib.get_close_matches(path, names, n=1, cutoff=0.75)
    return close[0] if close else None


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _validated(tree: Any, where: str) -> Params:
    if tree is None:
        tree = {}
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        # A value that no member of a union takes is reported once a member; one line a parameter says it.
        lines = {_dotted(problem["loc"]): _explain(problem, tree) for problem in reversed(error.errors())}
        raise UserError(told(f"{where}: {line}" for line in reversed(lines.values()))) from None


_TYPES = {"int_type": "a whole number", "float_type": "a number", "string_type": "text", "bool_type": "true or false"}
_TYPES |= {"dict_type": "a mapping", "model_type": "a mapping of names to values", "list_type": "a list"}


def _explain(problem: ErrorDetails, tree: Any) -> str:
    """One line about one mistake: dotted path, what was given, what is allowed."""
    path = _dotted(problem["loc"])
    kind, given = problem["type"], problem["input"]
    if path in parameters():
        given = tree
        for key in path.split("."):
            given = given[key]
        inside = problem["loc"][path.count(".") + 1 :]
        if inside and isinstance(given, Mapping) and inside[0] in given:
            given = {inside[0]: given[inside[0]]}
    if kind == "extra_forbidden":
        return unknown_parameter(path)
    if kind == "invalid_key" and path not in parameters():
        return unknown_parameter(".".join([*(str(part) for part in problem["loc"][:-1]), shown(given)]))
    if not path:
        return f"a mapping of sections is needed, given {shown(given)}"
    field = parameters().get(path)
    allowed = allowed_values(field) if field else _TYPES.get(kind, problem["msg"])
    return f"{path}: given {shown(given)}; allowed: {allowed}"


def _dotted(location: tuple[int | str, ...]) -> str:
    """The parameter's path in pydantic's location, which goes on with names of union members and list indices."""
    known = parameters()
    for end in range(len(location), 0, -1):
        path = ".".join(str(part) for part in location[:end])
        if path in known:
            return path
    return ".".join(str(part) for part in location)


def allowed_values(field: FieldInfo) -> str:
    """What a parameter may be, in words: its type and bounds."""
    text = _type_in_words(field.annotation)
    bounds = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}
    bounds |= {"max_length": "length at most"}
    limits = [f"{word} {getattr(item, key)}" for item in field.metadata for key, word in bounds.items()
              if getattr(item, key, None) is not None]  # fmt: skip
    return text + (", " + " and ".join(limits) if limits else "")


def _type_in_words(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type_in_words(part) for part in get_args(annotation))
    if get_origin(annotation) is list:
        return "a list of " + _type_in_words(get_args(annotation)[0]) + "s"
    if get_origin(annotation) is dict:
        return "a mapping of names to plain values (finite numbers, text, true, false, null, lists of whole numbers)"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    return words.get(annotation, str(annotation))
