"""prepare: a source -> `data/prepared/` (see `pipeline.data.prepared.prepared`). Run by `dvc repro prepare`."""

from pipeline.config import load_params
from pipeline.console.format import wrap_text
from pipeline.console.progress import CountProgress
from pipeline.data.prepare.reader import open_source
from pipeline.data.prepare.writer import write_prepared
from pipeline.data.prepared.prepared import describe_oddities
from pipeline.data.sources.download import fetch
from pipeline.entry import run_stage
from pipeline.inputs.source import note_source, preview_source, source_config, warn_of_masks
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Reads the source that the parameters name and writes it in the prepared format."""
    params = load_params(workspace.params)
    config = source_config(workspace, params)
    fetch(config)
    found = preview_source(workspace, params)
    source = open_source(config)
    with CountProgress("preparing") as bar:
        manifest = write_prepared(
            source,
            workspace.prepared,
            work=workspace.state / "prepare",
            skip_broken=params.prepare.skip_broken,
            on_progress=bar,
        )
    note_source(workspace, params, found, manifest["data_hash"])
    for line in (*found.notes, *describe_oddities(manifest)):
        print(line)
    if warning := warn_of_masks(manifest, found.masks):
        print(f"\n{wrap_text(warning)}\n")
    skipped = f", {len(manifest['skipped']):,} broken files left out" if "skipped" in manifest else ""
    print(
        f"{manifest['dataset']}: {manifest['images']:,} images, {len(manifest['classes'])} classes{skipped} -> "
        f"{workspace.prepared.relative_to(workspace.root)}"
    )


if __name__ == "__main__":
    run_stage("prepare", main)
