"""The section of params.yaml about the search: its space, rules and limits."""

from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.config.schema.section import PathText, Section

Plain = bool | int | float | str | list[int] | None
"""Type of a parameter's value. model.kwargs is a mapping to such values."""

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
        "local_gp",
        description="Rule that proposes configurations; docs/searching/samplers.md says which one suits which search.",
    )
    startup_trials: int = Field(
        5, ge=1, le=1_000_000, description="Trials that must have ended before the sampler learns from results."
    )
    start: Literal["recipe", "sobol", "random"] = Field(
        "recipe",
        description="How configurations are sampled before that; recipe: near the values of model and train; sobol: "
        "evenly; random: independently.",
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
        "asha",
        description="Rule by which unpromising trials are paused or stopped early; each is described in "
        "docs/searching/schedulers.md.",
    )
    grace_period: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Epochs that every trial runs; null: one more than the longest warm-up, of train.warmup_epochs "
        "and of a regulariser that is on or searched.",
    )
    reduction_factor: float = Field(
        4.0, gt=1, le=16, description="At each rung, the best 1/factor of the trials continue."
    )

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
        description="Largest number of configurations that are trained again, beside the controls: the best one, and "
        "those near it that are the best by search.choose.then.",
    )
    seeds: int = Field(
        2, ge=0, le=100, description="Number of further seeds that each of them is trained with; 0: no confirmation."
    )
    seeds_per_worker: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Number of these seeds that one worker trains together; each run is that of a single seed, within "
        "rounding. null: measured if a trial has a whole GPU, else 1 (docs/cluster/retraining.md).",
    )


class ChooseParams(Section):
    then: Literal["auto", "none"] | Objective = Field(
        "auto",
        description="Metric that decides among configurations which the first objective cannot tell apart; auto: "
        "val/attention/auroc if at least 50 validation images have masks or boxes, else val/loss; none: "
        "the best by the first objective is taken.",
    )
    within: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Number of standard errors of a difference within which values count as equal, at most the "
        "metric's margin; null: 2 if attention decides, else 1.",
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
    gpu_hours: float | None = Field(None, gt=0, le=1e9, description="GPU-hours of the trials; null: no limit.")
    cost: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Cost of the trials, in the currency of search.budget.price_per_gpu_hour; null: no limit.",
    )
    price_per_gpu_hour: float = Field(
        0.0, ge=0, le=1e6, description="Price of a GPU-hour, for search.budget.cost and for the summary."
    )
    target: float | None = Field(
        None,
        ge=-1e9,
        le=1e9,
        description="No further trial starts after one has completed with this value, or a better one, of the first "
        "of search.objectives; null: no target.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="No further trial starts after this many trials in a row without an improvement; null: no limit.",
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
        description="A configuration whose network takes more milliseconds to predict one image is not trained; "
        "null: no limit.",
    )
    min_images_per_s: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="A configuration whose network predicts fewer images a second is not trained; null: no limit.",
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
        description="Folder that every node shares, or s3://bucket/prefix, for checkpoints and large data sets; "
        "null: state/, if all nodes share it.",
    )
    ship_limit_mb: int = Field(
        2000,
        ge=0,
        le=1_000_000,
        description="Data up to this size are sent to nodes that do not have them; larger data go through storage.",
    )


class SearchParams(Section):
    space: PathText = Field(
        "search_spaces/sar.yaml",
        min_length=1,
        max_length=1000,
        description="File of the search space: the parameters that are varied, their distributions, and the controls.",
    )
    trials: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Configurations tried at most, not counting the controls; null: as many as "
        "search.budget.full_trainings allows.",
    )
    max_concurrent_trials: int | None = Field(
        None, ge=1, le=1_000_000, description="Number of trials that run at the same time; null: as many as fit."
    )
    cpus_per_trial: int = Field(1, ge=1, le=1024, description="CPU cores, and threads, of one trial.")
    gpus_per_trial: float | None = Field(
        None, ge=0, le=64, description="GPUs of one trial, or a share of one; null: 1 if there is a GPU, else 0."
    )
    sampler: SamplerParams = SamplerParams()
    points: dict[str, dict[str, Plain | dict[str, Plain]]] = Field(
        {},
        max_length=10_000,
        description="Configurations that are tried first, each under a name of yours; each may give only some of the "
        "parameters.",
    )
    warm_start: PathText | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Earlier results from which the sampler learns: the id of a search, or a .csv file; null: none.",
    )
    scheduler: SchedulerParams = SchedulerParams()
    objectives: list[Objective] = Field(
        ["val/accuracy"],
        min_length=1,
        max_length=11,
        description="Metrics that are optimised, the first of them measured on validation images; several give a "
        "Pareto front.",
    )
    constraints: ConstraintsParams = ConstraintsParams()
    confirm: ConfirmParams = ConfirmParams()
    choose: ChooseParams = ChooseParams()
    compare: Literal["recipe", "same_budget"] = Field(
        "recipe",
        description="How the control is made; recipe: it stays as the search space has it; same_budget: it is tuned "
        "by a study of its own over the space without the regulariser (if nothing is left to tune, it "
        "gets as many further seeds as there are trials).",
    )
    budget: BudgetParams = BudgetParams()
    cluster: ClusterParams = ClusterParams()
    checkpoint_every: int = Field(
        1, ge=1, le=100_000, description="Epochs between two checkpoints of a trial or of a retraining run."
    )
    max_failures: int = Field(
        2,
        ge=0,
        le=1_000_000,
        description="Number of times that a trial or a retraining run is started again after its worker died.",
    )
    retry_out_of_memory: bool = Field(
        True, description="Whether a trial that runs out of memory continues once with twice as many micro-batches."
    )
    keep_checkpoints: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Number of trials whose last checkpoint is stored, paused ones first; a paused trial without a "
        "checkpoint begins again. Checkpoints of controls and of configurations that may be confirmed "
        "are always stored; null: all.",
    )
    max_empty_share: float = Field(
        0.05, ge=0, le=1, description="A configuration with a larger share of empty maps is not chosen as the best."
    )
