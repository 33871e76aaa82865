"""A checkout with searches in it, written through a real journal: no Ray, no stages, milliseconds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import load_params
from pipeline.data.splits.split import make_split
from pipeline.provenance.fingerprint import fingerprint, fingerprint_content
from pipeline.state.current_search import current_search
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import COMPLETE, CONFIRMATION, CONTROL, FAILED, PRUNED, TrialRecord
from pipeline.tune.space import load_space
from pipeline.workspace import Workspace

WEIGHT = "regularizer.spatial_entropy.weight"
SPACE = f"parameters: {{{WEIGHT}: {{type: float, low: 0.1, high: 1.0}}}}\ncontrols: {{baseline: {{{WEIGHT}: 0.0}}}}\n"
LABELS = np.repeat(np.arange(2), 10)


def make_workspace(root: Path, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Workspace:
    """A checkout whose data are prepared, with these sections in params.yaml beside the defaults."""
    workspace = Workspace(root, root)
    (root / "dvc.yaml").touch()
    set_params(workspace, settings or {})
    (root / "search_spaces").mkdir()
    (root / "search_spaces" / "sar.yaml").write_text(SPACE)
    workspace.prepared.mkdir(parents=True)
    np.save(workspace.prepared / "images.npy", np.zeros((20, 4, 4, 1), np.uint8))
    np.save(workspace.prepared / "labels.npy", LABELS)
    manifest = {"format": 1, "data_hash": "d", "classes": ["a", "b"], "sha256": {"images": "", "labels": ""}}
    (workspace.prepared / "manifest.json").write_text(json.dumps(manifest))
    options = load_params(workspace.params).prepare.model_dump(exclude={"download"})
    note = {"d": {"identity": "digits", "images": 20, "prepare": options}}
    (workspace.state / "prepare").mkdir(parents=True)
    (workspace.state / "prepare" / "sources.json").write_text(json.dumps(note))
    return workspace


def set_params(workspace: Workspace, settings: Mapping[str, Mapping[str, Any]]) -> None:
    workspace.params.write_text(json.dumps(settings))  # which is YAML too


def content_of(workspace: Workspace) -> dict[str, Any]:
    """What decides the search that params.yaml asks for."""
    params = load_params(workspace.params)
    split = make_split(LABELS, val_fraction=params.split.val_fraction, test_fraction=params.split.test_fraction, seed=0)
    space = load_space(workspace.root / "search_spaces" / "sar.yaml", params, shown_as="sar.yaml")
    return fingerprint_content(params, space.content(), data_hash="d", split_hash=split.split_hash)


def open_search(
    workspace: Workspace,
    content: Mapping[str, Any] | None = None,
    *,
    gpus: float = 0.0,
    part: str = "",
    space_file: str = "search_spaces/sar.yaml",
) -> Journal:
    """The journal of a search; of the one that params.yaml asks for, unless its content is given."""
    content = content_of(workspace) if content is None else content
    name = fingerprint(content)
    header = {"fingerprint": name, "set": "digits", "space_file": space_file, "content": content}
    header |= {"part": part} if part else {}
    return Journal(workspace.searches / name[:16] / "journal.jsonl", header, gpus=gpus)


def write_search(
    workspace: Workspace, content: Mapping[str, Any] | None = None, *, gpus: float = 0.0, part: str = ""
) -> Path:
    """A search in which a trial ran in full, one was stopped, one failed and one has not ended. Returns its folder."""
    with open_search(workspace, content, gpus=gpus, part=part) as journal:
        run(journal, "baseline", epochs=2, state=COMPLETE, role=CONTROL)
        run(journal, "t0000", epochs=2, state=COMPLETE, accuracy=0.75)
        run(journal, "t0001", epochs=1, state=PRUNED)
        run(journal, "t0002", epochs=1, state=FAILED, reason="diverged: the loss\nis nan")
        run(journal, "t0000-seed1001", epochs=2, state=COMPLETE, role=CONFIRMATION, of="t0000")
        run(journal, "t0003", epochs=1, state=None)
        return ledger_folder(journal)


def write_earlier_search(workspace: Workspace, content: Mapping[str, Any] | None = None) -> Path:
    """The same, begun by a version whose journals had another name. Returns its folder."""
    folder = write_search(workspace, content)
    for ending in (".jsonl", ".lock"):
        (folder / f"journal{ending}").rename(folder / f"ledger{ending}")
    return folder


def ledger_folder(journal: Journal) -> Path:
    return Path(journal._file.name).parent


def run(
    journal: Journal,
    name: str,
    *,
    epochs: int,
    state: str | None,
    accuracy: float = 0.5,
    role: str = "trial",
    reason: str | None = None,
    of: str | None = None,
    checkpoint: str | None = None,
) -> None:
    """One trial's life, with a checkpoint an epoch, of which the last one stays. checkpoint: where it is, if elsewhere."""
    number = int(name[1:]) if role == "trial" else None
    study = "search" if role == "trial" else None
    seed = 1001 if of else None
    journal.start(TrialRecord(name, number, {WEIGHT: 0.25}, role=role, study=study, seed=seed, of=of))
    for epoch in range(1, epochs + 1):
        figures = {"train/loss": 2.0, "train/accuracy": 0.25, "val/loss": 1.5, "val/accuracy": accuracy, "seconds": 3.0}
        journal.report(name, epoch, figures)
    if checkpoint is None:
        folder = ledger_folder(journal) / "ray" / "start-0" / name / f"checkpoint_{epochs - 1:06d}"
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"x" * 1000)
    journal.checkpoint(name, checkpoint or str(folder))
    if state:
        journal.end(name, state, reason)


def write_fold_searches(workspace: Workspace) -> list[Path]:
    """The searches that params.yaml asks for with its folds: of all images, then of each fold."""
    current = current_search(workspace, load_params(workspace.params))
    assert current is not None
    searches = list(current.searches.values())
    names = ["all images", *(f"fold {number} of {len(current.folds)}" for number in range(1, len(searches)))]
    return [write_search(workspace, each.content, part=name) for each, name in zip(searches, names, strict=True)]


def other(content: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The content of another search."""
    return {**content, "seed": seed}
