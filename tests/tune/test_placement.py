"""Claims about the data that runs find on their node: each run has the split that it is of."""

from pathlib import Path

import pytest

from pipeline.config import Params
from pipeline.tune.ray import placement
from pipeline.tune.ray.placement import locate_data
from pipeline.tune.task import Resources, RunSpec


def test_runs_of_several_splits_find_their_own_in_one_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "manifest.json").write_text("{}")
    splits = [tmp_path / "split.json", tmp_path / "d-1.json", tmp_path / "d-2.json"]
    for split in splits:
        split.write_text(split.name)
    spec = RunSpec(Params(), tmp_path, prepared, splits[0], Resources(1, 0.0, 1, 1, 0), other_splits=tuple(splits[1:]))
    bundle = placement._listed(spec)
    assert sorted(bundle.origins) == [
        "prepared/manifest.json",
        "splits/d-1.json",
        "splits/d-2.json",
        "splits/split.json",
    ]
    elsewhere = {name: Path("/node") / name for name in bundle.origins}
    monkeypatch.setattr(placement, "open_bundle", lambda given: elsewhere)
    for split in splits:
        found = locate_data(prepared, split, {}, bundle)
        assert (found.prepared, found.split) == (Path("/node/prepared"), Path("/node/splits") / split.name)
        assert locate_data(prepared, split, {}, None).split == split
