"""The names that users and their scripts hold on to: what tests/public_names.yaml records, listed anew.

`names_without_run` needs the package alone; `names_of_run` reads a checkout in which the pipeline has run: its
`results/` and its `mlflow.db`.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

RECORD = Path(__file__).parents[1] / "public_names.yaml"

Names = dict[str, list[str]]
"""Sorted names by what carries them."""

TOP_LEVEL = (
    "search/best.yaml",
    "search/summary.json",
    "retrain/retrain.json",
    "evaluate/evaluation.json",
    "register/registered.json",
)
"""Files of which the keys at the top are public; what stands below some of them are names of controls and parameters."""

WHOLE = ("search/metrics.json", "evaluate/metrics.json")
"""Files of which all keys are public: `dvc metrics` and `dvc exp` show them by dotted path."""

OF_GPUS = ("gpu_busy", "gpu_memory_mb", "system/gpu_")
"""Names, and beginnings of names, that are there only where a GPU trains."""

SET_BY_MLFLOW = ("mlflow.source.", "mlflow.user", "mlflow.runName", "mlflow.log-model.", "mlflow.artifact")
"""Beginnings of tags that MLflow sets by itself."""


def recorded_names() -> tuple[Names, Names]:
    """Returns what the record lists: names without a run, and names of a run."""
    record = YAML(typ="safe", pure=True).load(RECORD.read_text(encoding="utf-8"))
    return record["without_run"], record["of_run"]


def differences(recorded: Mapping[str, Iterable[str]], present: Mapping[str, Iterable[str]]) -> list[str]:
    """Returns a line for every name that was added or lost."""
    lines = []
    for carrier in sorted({*recorded, *present}):
        old, new = set(recorded.get(carrier, ())), set(present.get(carrier, ()))
        lines += [f"{carrier}: lost {name}" for name in sorted(old - new)]
        lines += [f"{carrier}: added {name}" for name in sorted(new - old)]
    return lines


def names_without_run() -> Names:
    """Returns the paths of params.yaml, and of every `sar-search` command its options and arguments."""
    from pipeline.cli import cli
    from pipeline.config import parameters

    return {"params.yaml": sorted(parameters())} | dict(_commands("sar-search", cli))


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, list[str]]]:
    if isinstance(command, click.Group):
        yield path, sorted(command.commands)
        for name, child in command.commands.items():
            yield from _commands(f"{path} {name}", child)
    else:
        names = [[f"<{one.human_readable_name}>"] if isinstance(one, click.Argument) else one.opts + one.secondary_opts for one in command.params]  # fmt: skip
        yield path, sorted(name for each in names for name in each)


def names_of_run(root: Path) -> Names:
    """Returns the columns and keys under `results/` of a checkout, and what its MLflow runs and model carry."""
    results = root / "results"
    names = {f"results/{path.relative_to(results).as_posix()}": _columns(path) for path in results.rglob("*.csv")}
    names |= {f"results/{name}": sorted(_content(results / name)) for name in TOP_LEVEL}
    names |= {f"results/{name}": sorted(_leaves(_content(results / name))) for name in WHOLE}
    return names | _names_in_mlflow(f"sqlite:///{root / 'mlflow.db'}")


def _columns(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return sorted(name for name in next(csv.reader(file), []) if name not in OF_GPUS)


def _content(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else YAML(typ="safe", pure=True).load(text)


def _leaves(tree: Any, path: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path


def _names_in_mlflow(uri: str) -> Names:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    by_kind: dict[str, list[Run]] = {}
    for run in client.search_runs(experiments):
        kind = run.data.tags.get("sar.kind", "trial" if "sar.trial" in run.data.tags else "other")
        by_kind.setdefault(kind, []).append(run)
    names: Names = {}
    for kind, runs in by_kind.items():
        names[f"MLflow {kind} run, tags"] = _ours({tag for run in runs for tag in run.data.tags})
        metrics = {metric for run in runs for metric in run.data.metrics}
        names[f"MLflow {kind} run, metrics"] = sorted(name for name in metrics if not name.startswith(OF_GPUS))
        names[f"MLflow {kind} run, params"] = sorted({param for run in runs for param in run.data.params})
    for version in client.search_model_versions():
        names["registered version, tags"] = _ours(version.tags)
        names["registered version, aliases"] = sorted(
            alias for alias in ("challenger", "champion") if alias in client.get_registered_model(version.name).aliases
        )
        names |= _signature(uri, f"models:/{version.name}/{version.version}")
    return names


def _ours(tags: Iterable[str]) -> list[str]:
    return sorted(tag for tag in tags if not tag.startswith(SET_BY_MLFLOW))


def _signature(uri: str, model: str) -> Names:
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    try:
        mlflow.set_tracking_uri(uri)
        signature = mlflow.models.get_model_info(model).signature
    finally:
        mlflow.set_tracking_uri(before)  # None brings back MLflow's default
    parts = {"inputs": signature.inputs, "outputs": signature.outputs, "params": signature.params}
    return {f"registered model, {part}": _schema(schema) for part, schema in parts.items()}


def _schema(schema: Any) -> list[str]:
    """Returns the columns or parameters of a schema as `name: type`."""
    return [] if schema is None else sorted(_column(entry) for entry in schema.to_dict())


def _column(entry: Mapping[str, Any]) -> str:
    kind = json.dumps({key: value for key, value in entry.items() if key != "name"}, sort_keys=True)
    return f"{entry.get('name', '')}: {kind}"
