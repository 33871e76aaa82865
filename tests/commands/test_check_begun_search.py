"""Claims about the check of a search that has begun: what has changed since, and whose word it waits for."""

import json
from pathlib import Path

import pytest
import torch
from copied import set_parameters
from support.check_state import begun, told
from support.checkout import TINY

from pipeline.commands.compare_run import Answer, check_methods
from pipeline.errors import UserError
from pipeline.files.file_stats import hash_file
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig
from pipeline.preflight.plan import make_plan
from pipeline.state.search_summary import NOTHING_TO_DECIDE
from pipeline.tune.journal.journal import Journal
from pipeline.tune.journal.records import (
    JOURNAL,
    read_history,
)
from pipeline.tune.task import SearchTask
from pipeline.workspace import Workspace


def test_search_of_other_code_waits_for_its_users_word(workspace: Workspace) -> None:
    task = begun(workspace)
    with pytest.raises(UserError, match="begun by other code") as refused:
        told(workspace)
    for needed in ("pipeline/tune/ray/trainable.py", "--resume-anyway", "--new", str(task.folder)):
        assert needed in str(refused.value)
    assert read_history(task.folder / JOURNAL).trials["t0000"].epochs


def test_comparison_names_the_command_that_decides_and_goes_on(workspace: Workspace) -> None:
    begun(workspace)
    with pytest.raises(UserError, match="begun by other code") as refused:
        list(check_methods(workspace, "sar,tv", Answer(), measured=False))
    assert "  sar-search compare --run sar,tv --resume-anyway " in str(refused.value)
    assert "  sar-search compare --run sar,tv --new " in str(refused.value)


def test_comparison_tells_a_decision_once_and_of_the_searches_that_it_concerns(workspace: Workspace) -> None:
    begun(workspace)

    def decided() -> list[str]:
        plan = check_methods(workspace, "sar,tv", Answer(new=True), measured=False)
        return [line for line in plan if "new search begins" in line or "nothing to decide" in line]

    (line,) = decided()
    assert line.startswith("a new search begins with the next run; ")
    assert decided() == [NOTHING_TO_DECIDE]


def test_search_of_other_code_goes_on_when_its_user_says_so(workspace: Workspace) -> None:
    task = begun(workspace)
    said = told(workspace, resume_anyway=True)
    assert "goes on, though these have changed: pipeline/" in said
    assert f"search {task.folder.name[:8]}: goes on" in said
    assert "goes on" in told(workspace), "the answer was forgotten"


def test_new_search_begins_beside_the_old_one_when_its_user_says_so(workspace: Workspace) -> None:
    old = begun(workspace)
    said = told(workspace, new=True)
    assert f"{old.folder} stays as it is" in said
    new = make_plan(workspace).task()
    assert new.folder != old.folder
    assert f"search {new.folder.name[:8]}: new" in said
    assert read_history(old.folder / JOURNAL).trials["t0000"].epochs
    assert f"search {new.folder.name[:8]}: new" in told(workspace), "the answer was forgotten"


def write_weights(path: Path, seed: int, *, side: int = 16) -> None:
    torch.manual_seed(seed)
    config = ModelConfig("vit_tiny_patch16_224", TINY["model.kwargs"], "timm", 0.0)
    torch.save(build_model(config, num_classes=3, image_size=(side, side), channels=3).state_dict(), path)


def test_weights_are_told_with_how_they_were_adapted(workspace: Workspace) -> None:
    write_weights(workspace.root / "mine.pth", 0)
    set_parameters(workspace.params, {"model.pretrained": "mine.pth"})
    (line,) = [line for line in told(workspace).splitlines() if line.startswith("weights")]
    sha256 = hash_file(workspace.root / "mine.pth")
    assert line == (
        f"weights   mine.pth, sha256 {sha256[:8]}; classifier not pretrained (10 classes, the weights had 3); "
        "position embeddings resized from 8 x 8 to 6 x 6; input channels adapted from 3 to 1"
    )


def test_search_goes_on_with_a_file_that_was_moved_and_not_with_one_that_was_changed(workspace: Workspace) -> None:
    write_weights(workspace.root / "mine.pth", 0)
    set_parameters(workspace.params, {"model.pretrained": "mine.pth"})
    task = begun(workspace, by_other_code=False)
    assert task.weights["mine.pth"].path == str(workspace.root / "mine.pth")
    assert task.header["weights"]["mine.pth"]["sha256"] == task.weights["mine.pth"].sha256
    (workspace.root / "mine.pth").rename(workspace.root / "moved.pth")
    set_parameters(workspace.params, {"model.pretrained": "moved.pth"})
    assert f"search {task.folder.name[:8]}: goes on" in told(workspace)
    write_weights(workspace.root / "moved.pth", 1)
    assert f"changed since search {task.folder.name[:8]}: model.pretrained " in told(workspace)


def results_of(workspace: Workspace, task: SearchTask) -> None:
    """What a search leaves that ends now."""
    folder = workspace.results / "search"
    folder.mkdir(parents=True)
    content = {"fingerprint": task.fingerprint, "trial": "t0000", "best": {}, "controls": {}}
    (folder / "best.yaml").write_text(json.dumps(content | {"weights": task.header["weights"]}))


def test_results_of_weights_that_have_changed_since_are_not_taken_for_those_of_now(workspace: Workspace) -> None:
    write_weights(workspace.root / "mine.pth", 0)
    set_parameters(workspace.params, {"model.pretrained": "mine.pth"})
    results_of(workspace, make_plan(workspace).task())
    told(workspace)
    write_weights(workspace.root / "mine.pth", 1)
    with pytest.raises(
        UserError, match=r"^mine.pth: its weights are not those .*\n.*dvc repro --single-item --force search"
    ):
        told(workspace)
    set_parameters(workspace.params, {"train.lr": 0.001})  # which DVC sees, so that the search runs again anyway
    told(workspace)


def test_weights_of_another_network_are_refused_with_who_asks_for_them(workspace: Workspace) -> None:
    write_weights(workspace.root / "mine.pth", 0)
    kwargs = TINY["model.kwargs"] | {"depth": 4}
    set_parameters(workspace.params, {"model.pretrained": "mine.pth", "model.kwargs": kwargs})
    with pytest.raises(UserError, match=r"^params.yaml: model.pretrained: mine.pth: .* missing blocks.3.norm1.weight, .* and 8 more"):  # fmt: skip
        told(workspace)


def test_source_with_another_grid_is_refused_before_anything_starts(workspace: Workspace) -> None:
    write_weights(workspace.root / "mine.pth", 0, side=12)
    values = {"weight": 0.1, "source": "mine.pth"}
    set_parameters(workspace.params, {f"regularizer.guided_transfer.{key}": value for key, value in values.items()})
    with pytest.raises(UserError, match=r"source: mine.pth takes images of 3 x 12 x 12 .*, but these are 1 x 12 x 12"):
        told(workspace)
    write_weights(workspace.root / "mine.pth", 0)
    with pytest.raises(UserError, match=r"^params.yaml: regularizer.guided_transfer: source: mine.pth: a bare file"):
        told(workspace)


def test_changed_file_of_a_plugin_stops_and_asks(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    code = "from pipeline.regularizers import RequiredFeatures, RegularizerOutput, Regularizer\n\n\nclass Mine(Regularizer):\n    def __init__(self, *, weight: float) -> None:\n        super().__init__(weight, RequiredFeatures(tokens=True))\n\n    def forward(self, features):\n        return RegularizerOutput(features.tokens.mean(), {})\n"
    (workspace.root / "checked_mine.py").write_text(code)
    set_parameters(workspace.params, {"regularizer.plugin": "checked_mine:Mine", "regularizer.plugin_weight": 0.1})
    begun(workspace, by_other_code=False)
    told(workspace)
    (workspace.root / "checked_mine.py").write_text(code + "\n")
    with pytest.raises(UserError, match="changed since: plugin checked_mine"):
        told(workspace)
    set_parameters(workspace.params, {"regularizer.plugin": "nowhere:Mine", "regularizer.plugin_weight": 0.0})
    told(workspace)  # what is off need not be there


def test_answer_where_nothing_is_asked_changes_nothing(workspace: Workspace) -> None:
    task = begun(workspace, by_other_code=False)
    before = (task.folder / JOURNAL).read_bytes()
    assert "there is nothing to decide" in told(workspace, new=True)
    assert (task.folder / JOURNAL).read_bytes() == before
    assert make_plan(workspace).task().folder == task.folder


def test_answer_does_not_touch_a_search_that_is_running(workspace: Workspace) -> None:
    task = begun(workspace)
    with Journal(task.folder / JOURNAL, task.header), pytest.raises(UserError, match="another process"):
        told(workspace, resume_anyway=True)
    with pytest.raises(UserError, match="begun by other code"):
        told(workspace)
