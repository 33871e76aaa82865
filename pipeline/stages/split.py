"""split: ids of the prepared images -> `data/split.json`: train, val, test. Run by `dvc repro split`."""

from pipeline.config import load_params
from pipeline.data.splits import make_split, write_split
from pipeline.data.store import open_prepared
from pipeline.entry import run_stage
from pipeline.workspace import Workspace


def main(workspace: Workspace) -> None:
    """Divide the prepared images into roles."""
    params = load_params(workspace.params)
    prepared = open_prepared(workspace.prepared)
    split = make_split(
        prepared.labels,
        val_fraction=params.split.val_fraction,
        test_fraction=params.split.test_fraction,
        seed=params.base.seed,
        train_fraction=params.split.train_fraction,
        own_test=prepared.test,
        classes=prepared.classes,
    )
    write_split(split, workspace.split, data_hash=prepared.data_hash, seed=params.base.seed)
    print(f"train {len(split.train):,}, val {len(split.val):,}, test {len(split.test):,} images")


if __name__ == "__main__":
    run_stage("split", main)
