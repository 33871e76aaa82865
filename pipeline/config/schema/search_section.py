"""The section of params.yaml about the search: what is tried, by what rule, within which limits."""

from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.config.schema.section import PathText, Section

Plain = bool | int | float | str | list[int] | None
"""What a parameter may be; model.kwargs is a mapping of such."""

Objective = Literal[
    "val/accuracy",
    "val/loss",
    "val/balanced_accuracy",
    "val/macro_f1",
    "val/auroc",
    "val/metric",
    "val/attention/jaccard",
    "val/attention/auroc",
    "parameters",
    "latency_ms",
    "images_per_s",
]


class SamplerParams(Section):
    name: Literal["local_gp", "tpe", "gp", "random", "grid", "sobol"] = Field(
        "local_gp", description="How configurations are proposed; docs/searching.md says which suits what."
    )
    startup_trials: int = Field(
        5, ge=1, le=1_000_000, description="Trials that must have ended before the sampler learns from results."
    )
    start: Literal["recipe", "sobol", "random"] = Field(
        "recipe",
        description="How configurations are sampled until then: around model and train, evenly, or independently.",
    )

    @field_validator("name", mode="before")
    @classmethod
    def _is_still_there(cls, name: Any) -> Any:
        if name == "cmaes":
            raise ValueError("CMA-ES has been taken out; set it to tpe or gp, which take any space")
        if name == "noisy_gp":
            raise ValueError("noisy_gp has been taken out; set it to local_gp, which learns from every epoch")
        return name


class SchedulerParams(Section):
    name: Literal["asha", "asha_stopping", "hyperband", "median", "none"] = Field(
        "asha", description="How unpromising trials are paused or stopped early; docs/searching.md has the rules."
    )
    grace_period: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Epochs that every trial runs; null: one more than the warm-ups of the regulariser, where one is "
        "on or searched, and of train.warmup_epochs.",
    )
    reduction_factor: float = Field(4.0, gt=1, le=16, description="At each rung the best 1/factor goes on.")

    @field_validator("name", mode="before")
    @classmethod
    def _is_still_there(cls, name: Any) -> Any:
        if name == "pasha":
            raise ValueError("PASHA has been taken out; set it to asha, or to asha_stopping, which has the same rungs")
        return name


class ConfirmParams(Section):
    top: int = Field(
        3,
        ge=1,
        le=1000,
        description="So many configurations at most are trained again, and each control: the best, and those near it "
        "that are the best by search.choose.then.",
    )
    seeds: int = Field(2, ge=0, le=100, description="Further seeds that they are trained with; 0: no confirmation.")


class ChooseParams(Section):
    then: Literal["auto", "none"] | Objective = Field(
        "auto",
        description="What decides among configurations that the first objective does not tell apart; auto: "
        "val/attention/auroc where at least 50 validation images have masks or boxes, else val/loss; none: the best is "
        "taken.",
    )
    within: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Standard errors of a difference within which values count as equal, the metric's margin at most; "
        "null: 2 for attention, 1 for anything else.",
    )


class BudgetParams(Section):
    full_trainings: float | None = Field(
        20.0,
        gt=0,
        le=1e6,
        description="Epochs of the whole search, as multiples of train.epochs: controls, trials and confirmations "
        "together; null: no limit.",
    )
    hours: float | None = Field(None, gt=0, le=1e9, description="Wall-clock hours of the search; null: no limit.")
    gpu_hours: float | None = Field(None, gt=0, le=1e9, description="GPU-hours of its trials; null: no limit.")
    cost: float | None = Field(
        None, gt=0, le=1e9, description="Cost of its trials, in the unit of the price; null: no limit."
    )
    price_per_gpu_hour: float = Field(
        0.0, ge=0, le=1e6, description="What a GPU costs an hour, for search.budget.cost and for the summary."
    )
    target: float | None = Field(
        None,
        ge=-1e9,
        le=1e9,
        description="No further trial starts once one has completed with this value of the first of search.objectives.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="No further trial starts after so many in a row that were no better.",
    )


class ConstraintsParams(Section):
    max_parameters: float | None = Field(
        None,
        ge=1,
        le=1e15,
        description="A configuration whose network has more parameters is not trained; null: no limit.",
    )
    max_latency_ms: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="A configuration that takes longer for one image is not trained; null: no limit.",
    )
    min_images_per_s: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="A configuration that predicts fewer images a second is not trained; null: no limit.",
    )
    min_attention_jaccard: float | None = Field(
        None,
        gt=0,
        le=1,
        description="A configuration whose val/attention/jaccard is lower is not chosen as the best; null: no limit.",
    )


class ClusterParams(Section):
    address: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Ray cluster that runs the trials: auto (this machine is one of its nodes) or its head's "
        "host:port; null: RAY_ADDRESS, else this machine alone.",
    )
    storage: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Folder that every node shares, or s3://bucket/prefix, for checkpoints and large sets; null: "
        "state/, if all share that.",
    )
    ship_limit_mb: int = Field(
        2000,
        ge=0,
        le=1_000_000,
        description="Data up to this size are sent to nodes that do not have them; larger ones go through storage.",
    )


class SearchParams(Section):
    space: PathText = Field(
        "search_spaces/sar.yaml", min_length=1, max_length=1000, description="File that says what varies and how."
    )
    trials: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Configurations tried at most, the controls not counted; null: as many as "
        "search.budget.full_trainings allows.",
    )
    max_concurrent_trials: int | None = Field(
        None, ge=1, le=1_000_000, description="Trials at a time; null: as many as fit."
    )
    cpus_per_trial: int = Field(1, ge=1, le=1024, description="CPU cores, and threads, of one trial.")
    gpus_per_trial: float | None = Field(
        None, ge=0, le=64, description="Share of a GPU for one trial; null: 1 where there is a GPU, else 0."
    )
    sampler: SamplerParams = SamplerParams()
    points: dict[str, dict[str, Plain | dict[str, Plain]]] = Field(
        {},
        max_length=10_000,
        description="Configurations that are tried first, by a name of yours; each may be partial.",
    )
    warm_start: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Results that the sampler knows beforehand: an earlier search's id, or a .csv file.",
    )
    scheduler: SchedulerParams = SchedulerParams()
    objectives: list[Objective] = Field(
        ["val/accuracy"],
        min_length=1,
        max_length=11,
        description="What is searched for, a metric of the validation images first; several give a Pareto front.",
    )
    constraints: ConstraintsParams = ConstraintsParams()
    confirm: ConfirmParams = ConfirmParams()
    choose: ChooseParams = ChooseParams()
    compare: Literal["recipe", "same_budget"] = Field(
        "recipe",
        description="What the control is: the recipe as it stands; or, same_budget, tuned by a search of its own over "
        "the space without the regulariser (where nothing is left to tune, as many further seeds as there are trials).",
    )
    budget: BudgetParams = BudgetParams()
    cluster: ClusterParams = ClusterParams()
    checkpoint_every: int = Field(
        1, ge=1, le=100_000, description="Epochs between a trial's, or a retraining run's, checkpoints."
    )
    max_failures: int = Field(
        2, ge=0, le=1_000_000, description="Times a trial, or a retraining run, is started again after its worker died."
    )
    retry_out_of_memory: bool = Field(
        True, description="A trial that runs out of memory goes on once, in twice as many micro-batches a batch."
    )
    keep_checkpoints: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Trials whose last checkpoint is kept, those that are paused first; a paused one without begins "
        "again. Those of controls and of what is confirmed always are; null: all.",
    )
    max_empty_share: float = Field(
        0.05, ge=0, le=1, description="A configuration with a larger share of empty maps is not chosen as the best."
    )
