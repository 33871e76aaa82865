"""prepare: a source -> `data/prepared/` (see `pipeline.data.store`). Run by `dvc repro prepare`."""

from pipeline.config import load_params
from pipeline.data.sources import SOURCES
from pipeline.data.store import write_prepared
from pipeline.entry import run_stage
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Read the source that the parameters name and write it in prepared form."""
    params = load_params(workspace.params).prepare
    manifest = write_prepared(SOURCES[params.dataset](params.image_size), workspace.prepared)
    print(
        f"{manifest['dataset']}: {manifest['images']:,} images, {len(manifest['classes'])} classes -> "
        f"{workspace.prepared.relative_to(workspace.root)}"
    )


if __name__ == "__main__":
    run_stage("prepare", main)
