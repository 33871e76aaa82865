"""Files that the version before typed hand-offs wrote, in recorded/: read and written again, they are the same bytes.

`tiny` was left by `dvc repro` on a tiny setting. The others were written by the stages' own code from trials and
networks whose answers are given: a search for one objective, for several with constraints, weights and a guide
(`several`), for a loss, and with a study of the control's own (`budget`); retraining and evaluation on all images
(`whole`), in folds with a holdout, a probe and another metric (`folded`), and with one seed and no masks (`loss_alone`).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.partial_results import filled_content

from pipeline.artifacts.best_config import BestConfig, FoldSearches
from pipeline.artifacts.evaluation import Evaluation, TestMetrics
from pipeline.artifacts.evaluations import read_evaluations
from pipeline.artifacts.registration import Registration
from pipeline.artifacts.retraining import ChosenSeeds, Retraining
from pipeline.artifacts.search_result import SearchSummary
from pipeline.artifacts.stage_results import Artifact
from pipeline.errors import UserError

RECORDED = Path(__file__).parent / "recorded"
KINDS: list[type[Artifact]] = [BestConfig, SearchSummary, FoldSearches, Retraining, ChosenSeeds, Evaluation, TestMetrics, Registration]  # fmt: skip
FILES = [(kind, path) for kind in KINDS for path in sorted(RECORDED.rglob(kind.FILE))]


def named(given: Any) -> str:
    return given.__name__ if isinstance(given, type) else given.parent.name


@pytest.mark.parametrize(("kind", "path"), FILES, ids=named)
def test_recorded_files_come_back_byte_for_byte(kind: type[Artifact], path: Path, tmp_path: Path) -> None:
    kind.read(path.parent).write(tmp_path)
    assert (tmp_path / kind.FILE).read_bytes() == path.read_bytes()


def test_every_kind_of_file_is_recorded() -> None:
    assert {kind for kind, _ in FILES} == set(KINDS)


@pytest.mark.parametrize("run", ["tiny", "whole", "folded", "loss_alone"])
def test_evaluations_that_are_kept_come_back_too(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "evaluations" / "f"
    folder.mkdir(parents=True)
    shutil.copy(RECORDED / run / "kept.json", folder / "evaluation.json")
    shutil.copy(RECORDED / run / "kept.npz", folder / "correct.npz")
    (found,) = read_evaluations(tmp_path)
    assert json.dumps(found.content(), indent=2) + "\n" == (RECORDED / run / "kept.json").read_text()
    assert found.best.shape == found.control_correct.shape
    assert (found.folds is not None) == (run == "folded")


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_file_that_lacks_a_key_is_refused_with_the_key_and_the_stage(kind: type[Artifact], tmp_path: Path) -> None:
    path = tmp_path / kind.FILE
    with pytest.raises(UserError, match=rf"not there\. Run `dvc repro {kind.MADE_BY}` first\."):
        kind.read(tmp_path)
    content = filled_content(kind, {})
    lost = next(name for name, field in kind.model_fields.items() if field.is_required())
    del content[lost]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        kind.read(tmp_path)
    assert str(refused.value) == (
        f"{path}: is not in the form that this version reads ({lost}: field required). "
        f"Run `dvc repro --single-item --force {kind.MADE_BY}`."
    )
    path.write_text("[1]")
    with pytest.raises(UserError, match="is not in the form that this version reads"):
        kind.read(tmp_path)


def test_results_of_earlier_versions_have_what_they_lack_by_default() -> None:
    content = json.loads((RECORDED / "whole" / "evaluation.json").read_text())
    for name in ("metric", "endpoints", "variance_parts", "ensembles", "attention_differences", "networks", "method"):
        del content[name]
    del content["comparison"]["folds"]
    content["test_reads"] = content.pop("look") + 3
    found = Evaluation.model_validate(content)
    assert (found.look, found.words.name, found.words.margin) == (4, "accuracy", 0.01)
    assert (found.endpoints, found.networks, found.comparison.folds) == ((), "", 1)
    assert "endpoints" not in found.content()


def test_a_measured_recurrence_is_written_and_read_again(tmp_path: Path) -> None:
    """Files of earlier versions have none, and stay without."""
    found = SearchSummary.read(RECORDED / "one")
    assert found.forecast is not None
    assert found.forecast.recurrence is None
    measured = found.model_copy(update={"forecast": replace(found.forecast, recurrence=0.125)})
    measured.write(tmp_path)
    assert SearchSummary.read(tmp_path).forecast == measured.forecast
