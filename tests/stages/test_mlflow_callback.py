"""How runs are called and tagged; that MLflow has them is tested in tests/track and tests/test_pipeline.py."""

from copied import ROOT

from pipeline.config import load_params
from pipeline.stages.search.mlflow_callback import run_name, rung_marks
from pipeline.tune.journal.records import CONTROL, TrialRecord
from pipeline.tune.space import load_space

ENTROPY = "regularizer.spatial_entropy"


def test_a_trials_name_reads_well_in_a_list() -> None:
    values = {f"{ENTROPY}.weight": 0.0123456, f"{ENTROPY}.layers": "last", f"{ENTROPY}.threshold": 0.3}
    assert run_name(TrialRecord("t0007", 7, values)) == "w=0.0123 layers=last t=0.3 (t0007)"
    control = TrialRecord("baseline", None, {f"{ENTROPY}.weight": 0.0}, role=CONTROL)
    assert run_name(control) == "baseline w=0"


def test_two_methods_weights_are_told_apart() -> None:
    values = {f"{ENTROPY}.weight": 0.5, "regularizer.total_variation.weight": 1.0, "train.lr": 0.001}
    assert run_name(TrialRecord("t1", 1, values)) == "spatial_entropy.w=0.5 total_variation.w=1 lr=0.001 (t1)"


def test_rungs_are_those_of_the_scheduler() -> None:
    params = load_params(ROOT / "params.yaml")
    space = load_space(ROOT / "search_spaces" / "sar.yaml", params, shown_as="sar.yaml")
    assert rung_marks(params, space) == [2]
    stopping = {"search.scheduler.name": "asha_stopping", "search.scheduler.reduction_factor": 2.0}
    assert rung_marks(params.with_values(stopping, where="here"), space) == [2, 4]
    assert rung_marks(params.with_values({"search.scheduler.name": "none"}, where="here"), space) == []
