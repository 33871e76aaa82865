"""The sets that prepare.dataset can name, and which of them are here: what `sar-search datasets` says."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Params, load_params
from pipeline.console.format import LEFT, RIGHT, format_size, format_table
from pipeline.data.sources.dataset_registry import DATASETS, DatasetInfo
from pipeline.data.sources.download import can_be_made
from pipeline.data.sources.named_dataset import locate_dataset
from pipeline.data.sources.source_config import SourceConfig
from pipeline.errors import UserError
from pipeline.inputs.source import DATASETS_ROOT
from pipeline.workspace import Workspace

DIGITS = ("digits", "1,797", "10", "masks", "CC BY 4.0", "comes with scikit-learn")
OWN = ("image_folder", "yours", "yours", "masks or boxes", "yours", "where prepare.root says; docs/own-images.md")


def describe_datasets(workspace: Workspace) -> Iterator[str]:
    """A line a set: its name, images, classes, what it knows of objects, a word on its licence, whether it is here.

    Looked for are the folder or archive in prepare.root, where params.yaml names a known set, and the default folder.
    """
    roots, asked = _roots(workspace)
    columns = {"dataset": LEFT, "images": RIGHT, "classes": RIGHT, "objects": LEFT, "licence": LEFT, "here": LEFT}
    rows = [DIGITS, OWN, *(_row(name, known, roots, workspace, asked) for name, known in DATASETS.items())]
    yield from format_table(columns, rows, gives_way="licence")
    yield ""
    yield "Set prepare.dataset in params.yaml; prepare.download: true fetches what is not here and can be fetched."
    yield "Licences are a word each: the set's own page has the terms. Layouts and addresses: docs/datasets.md"


def _roots(workspace: Workspace) -> tuple[list[Path], str]:
    """Where sets are looked for, and the one that params.yaml asks for."""
    try:
        params = load_params(workspace.params)
    except UserError:  # which is for `sar-search check` to say
        params = Params()
    prepare = params.prepare
    own = [] if prepare.root is None or prepare.dataset not in DATASETS else [workspace.root / prepare.root]
    return [*own, workspace.anchor / DATASETS_ROOT], prepare.dataset


def _row(name: str, entry: DatasetInfo, roots: list[Path], workspace: Workspace, asked: str) -> tuple[str, ...]:
    here = "by hand (docs/datasets.md)"
    if entry.host:
        here = f"to fetch, {format_size(entry.bytes)}"
    for root in reversed(roots):
        shown = str(root.relative_to(workspace.anchor)) if root.is_relative_to(workspace.anchor) else str(root)
        if locate_dataset(name, root) is not None or (name == asked and root.is_file()):
            here = f"in {shown}"
        elif can_be_made(SourceConfig(name, 8, root)):
            here = f"as archives in {shown}"
    return name, f"{entry.images:,}", f"{entry.classes:,}", entry.objects or "-", entry.licence, here
