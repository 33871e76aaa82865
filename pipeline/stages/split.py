"""split: ids of the prepared images -> `data/split.json`: train, val, test. Run by `dvc repro split`."""

from pipeline.config import load_params
from pipeline.data.splits import write_split
from pipeline.data.store import open_prepared
from pipeline.entry import run_stage
from pipeline.ops.splitting import split_of
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Divide the prepared images into roles."""
    params = load_params(workspace.params)
    prepared = open_prepared(workspace.prepared)
    split = split_of(params, prepared)
    write_split(split, workspace.split, data_hash=prepared.data_hash, seed=params.base.seed)
    print(f"train {len(split.train):,}, val {len(split.val):,}, test {len(split.test):,} images")


if __name__ == "__main__":
    run_stage("split", main)
