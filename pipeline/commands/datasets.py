"""`sar-search datasets`: the data sets that prepare.dataset can name, and whether they are on this machine."""

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
"""Row of the set that needs no files."""
OWN = ("image_folder", "yours", "yours", "masks or boxes", "yours", "where prepare.root says; docs/own-images.md")
"""Row of the user's own images."""


def describe_datasets(workspace: Workspace) -> Iterator[str]:
    """Yields a table of the data sets: name, images, classes, masks or boxes, licence, and place.

    Sets are looked for in the default folder and, if params.yaml names a set, in prepare.root.

    Args:
        workspace: the checkout.
    """
    roots, asked = _roots(workspace)
    columns = {"dataset": LEFT, "images": RIGHT, "classes": RIGHT, "objects": LEFT, "licence": LEFT, "here": LEFT}
    rows = [DIGITS, OWN, *(_row(name, known, roots, workspace, asked) for name, known in DATASETS.items())]
    yield from format_table(columns, rows, gives_way="licence")
    yield ""
    yield "Set prepare.dataset in params.yaml; prepare.download: true fetches a set that is missing and can be fetched."
    yield "Licences are a word each: the set's own page has the terms. Layouts and addresses: docs/datasets.md"


def _roots(workspace: Workspace) -> tuple[list[Path], str]:
    """Returns the folders in which sets are looked for, and the set that params.yaml names."""
    try:
        params = load_params(workspace.params)
    except UserError:  # `sar-search check` reports it
        params = Params()
    prepare = params.prepare
    own = [] if prepare.root is None or prepare.dataset not in DATASETS else [workspace.root / prepare.root]
    return [*own, workspace.anchor / DATASETS_ROOT], prepare.dataset


def _row(name: str, entry: DatasetInfo, roots: list[Path], workspace: Workspace, asked: str) -> tuple[str, ...]:
    """Returns the table's row of a set.

    Args:
        name: the set's name.
        entry: its entry in the registry.
        roots: folders in which sets are looked for, the first of which has precedence.
        workspace: the checkout.
        asked: the set that params.yaml names. For it, a root may also be an archive.
    """
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
