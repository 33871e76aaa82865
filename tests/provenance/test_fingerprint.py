"""Claims about fingerprints and traces: what names a search, and what does not."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from copied import ROOT
from test_dvc import holds_code, imported_by

import pipeline
from pipeline.config import Params
from pipeline.console.format import config_name
from pipeline.provenance.code_hash import code_hash, code_hashes, content_hash
from pipeline.provenance.fingerprint import fingerprint, fingerprint_content
from pipeline.provenance.trace import commit, trace, versions

SPACE = {"parameters": {"train.lr": {"type": "float", "low": 0.1, "high": 1.0}}, "controls": {"baseline": {}}}


def named(changes: dict[str, Any] | None = None, *, space: Any = SPACE, data: str = "d", split: str = "s") -> str:
    params = Params().with_values(changes or {}, where="")
    return fingerprint(fingerprint_content(params, space, data_hash=data, split_hash=split))


def test_fingerprint_is_a_hash_that_stays() -> None:
    assert named() == named()
    assert len(named()) == 64


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("base.seed", 1),
        ("model.drop_path", 0.2),
        ("model.kwargs", {"depth": 2}),
        ("train.epochs", 17),
        ("train.lr", 0.003),
        ("train.class_weights", "balanced"),
        ("train.class_weights", {"owl": 2.0}),
        ("train.sampling", "balanced"),
        ("train.layer_decay", 0.75),
        ("train.classifier_lr_scale", 10.0),
        ("model.freeze", 2),
        ("model.freeze", "all"),
        ("regularizer.spatial_entropy.threshold", 0.5),
        ("search.sampler.name", "random"),
        ("search.sampler.startup_trials", 6),
        ("search.sampler.start", "random"),
        ("search.points", {"mine": {"train.lr": 0.2}}),
        ("search.warm_start", "7a64c473"),
        ("search.objectives", ["val/accuracy", "parameters"]),
        ("search.constraints.max_parameters", 5e6),
        ("search.constraints.min_attention_jaccard", 0.3),
        ("search.scheduler.grace_period", 5),
        ("search.scheduler.reduction_factor", 3.0),
    ],
)
def test_fingerprint_changes_with_what_decides_a_trial(path: str, value: Any) -> None:
    assert named({path: value}) != named()


SAID = re.compile(r"(?:decides the trials of a search:|It covers) (.*?)\.\s", re.DOTALL)


@pytest.mark.parametrize("page", ["searching/resuming.md", "design/search.md"])
def test_docs_name_all_that_the_fingerprint_is_made_of_and_nothing_else(page: str) -> None:
    (said,) = SAID.findall((ROOT / "docs" / page).read_text().replace("\n", " "))
    # One page has a sentence, the other a list, with a condition after the last item.
    items = re.sub(r"(^|,) +- +", r"\1 ", said.partition(", if it is")[0]).replace(" (except `workers`)", "")
    named_there = re.split(r", | and ", items.strip())
    given = {"points": {"mine": {"train.lr": 0.2}}, "warm_start": "7a64c473", "constraints.max_parameters": 5e6}
    given |= {"objectives": ["val/accuracy", "parameters"], "choose.then": "val/attention/auroc"}
    params = Params().with_values({f"search.{name}": value for name, value in given.items()}, where="the test")
    content = fingerprint_content(params, SPACE, data_hash="d", split_hash="s")
    wordy = re.compile(r"^(the )?(sections )?(metric )?(search space)?")
    named = {"space" if name == "search space" else wordy.sub("", name.strip()).strip("`") for name in named_there}
    assert {name.removeprefix("search.choose.") for name in named} == {key.replace("_", " ") for key in content}
    assert " `train` (except `workers`)" in said
    assert set(params.train.model_dump()) - set(content["train"]) == {"workers"}


def test_points_warm_starts_and_goals_that_are_not_given_are_no_part_of_the_fingerprint() -> None:
    content = fingerprint_content(Params(), SPACE, data_hash="d", split_hash="s")
    assert not content.keys() & {"points", "warm_start", "objectives", "constraints"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("search.trials", 64),
        ("search.confirm.top", 5),
        ("search.confirm.seeds", 0),
        ("search.compare", "same_budget"),
        ("search.budget.hours", 2.0),
        ("search.budget.target", 0.9),
        ("search.checkpoint_every", 4),
        ("search.retry_out_of_memory", False),
        ("search.keep_checkpoints", 1),
        ("search.max_empty_share", 0.5),
        ("search.max_concurrent_trials", 2),
        ("search.cpus_per_trial", 4),
        ("search.gpus_per_trial", 0.5),
        ("search.max_failures", 5),
        ("search.space", "elsewhere.yaml"),
        ("search.cluster.address", "auto"),
        ("search.cluster.storage", "s3://bucket/prefix"),
        ("search.cluster.ship_limit_mb", 5),
        ("train.workers", 3),
        ("base.device", "cpu"),
        ("retrain.seeds", 3),
        ("tracking.uri", "http://localhost:5000"),
        ("register.name", "other"),
    ],
)
def test_fingerprint_stays_when_a_search_is_extended_or_run_elsewhere(path: str, value: Any) -> None:
    assert named({path: value}) == named()


def test_fingerprint_changes_with_data_split_and_space() -> None:
    wider = {**SPACE, "parameters": {"train.lr": {"type": "float", "low": 0.1, "high": 2.0}}}
    more = {**SPACE, "controls": {"baseline": {}, "paper": {}}}
    names = {named(), named(data="e"), named(split="t"), named(space=wider), named(space=more)}
    assert len(names) == 5


def test_fingerprint_stays_whatever_code_and_versions_run_the_search(
    copied_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is asked about those (`pipeline.tune.journal.compatibility`), so that no change of a comment costs a search."""
    before = named()
    (copied_code / "train" / "loop.py").write_text("# another loop\n")
    monkeypatch.setattr("platform.python_version", lambda: "9.9.9")
    assert named() == before


def test_each_generation_of_a_search_has_a_name_of_its_own_and_the_first_that_of_the_content() -> None:
    content = fingerprint_content(Params(), SPACE, data_hash="d", split_hash="s")
    assert fingerprint(content, 0) == fingerprint(content)
    assert len({fingerprint(content, generation) for generation in range(4)}) == 4
    assert fingerprint(content, 2) == fingerprint(dict(content), 2)


def test_content_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"b": [1, 2]}) != content_hash({"b": [2, 1]})


@pytest.fixture
def copied_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that the code's hash is made of."""
    copy = tmp_path / "pipeline"
    shutil.copytree(Path(pipeline.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(pipeline, "__file__", str(copy / "__init__.py"))
    return copy


def test_code_hash_is_the_same_wherever_the_code_lies(copied_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = code_hash()
    monkeypatch.undo()
    assert code_hash() == there


@pytest.mark.parametrize(
    "name", ["train/loop.py", "regularizers/spatial_entropy.py", "tune/study/study.py", "assembly.py"]
)
def test_code_hash_changes_with_code_that_decides_a_trial(copied_code: Path, name: str) -> None:
    before = code_hash()
    with (copied_code / name).open("a") as file:
        file.write("# changed\n")
    assert code_hash() != before


@pytest.mark.parametrize("name", ["preflight/plan.py", "cli.py", "figures/report.py", "tracking/runs.py"])
def test_code_hash_stays_with_code_that_does_not(copied_code: Path, name: str) -> None:
    before = code_hash()
    with (copied_code / name).open("a") as file:
        file.write("# changed\n")
    assert code_hash() == before


def test_code_hash_changes_when_a_module_is_added_or_renamed(copied_code: Path) -> None:
    before = code_hash()
    (copied_code / "train" / "extra.py").touch()
    added = code_hash()
    (copied_code / "train" / "extra.py").rename(copied_code / "train" / "extras.py")
    assert len({before, added, code_hash()}) == 3


def test_changed_file_changes_its_own_hash_alone(copied_code: Path) -> None:
    before = code_hashes()
    with (copied_code / "train" / "loop.py").open("a") as file:
        file.write("# changed\n")
    after = code_hashes()
    assert [name for name in after if after[name] != before[name]] == ["pipeline/train/loop.py"]
    assert before.keys() == after.keys()
    assert all(len(digits) == 12 for digits in after.values())


def test_versions_name_python_and_what_training_stands_on() -> None:
    found = versions()
    assert found.keys() == {"python", "torch", "timm", "numpy", "numba", "pillow", "scipy", "optuna", "ray"}
    assert found["python"].count(".") == 2


def git(root: Path, *arguments: str) -> str:
    said = subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return said.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with a commit of a file and of dvc.lock."""
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet")
    for name in ("params.yaml", "dvc.lock"):
        (root / name).write_text("first\n")
    git(root, "add", ".")
    git(root, "-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "first")
    return root


def test_commit_of_a_clean_checkout_is_its_head(checkout: Path) -> None:
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD")
    assert len(commit(checkout)) == 40


def test_commit_tells_of_changes_to_tracked_files_alone(checkout: Path) -> None:
    head = commit(checkout)
    (checkout / "untracked.txt").touch()
    (checkout / "dvc.lock").write_text("DVC writes this while stages run\n")
    assert commit(checkout) == head
    (checkout / "params.yaml").write_text("second\n")
    assert commit(checkout) == head + "+changes"


def test_commit_outside_git_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) == "unknown"


def test_commit_without_git_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) == "unknown"


def test_trace_leads_to_commit_code_and_data(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    tags = {"sar.commit": commit(checkout), "sar.code_hash": code_hash(), "sar.data_hash": "abc"}
    assert trace(checkout, "abc") == tags
    monkeypatch.setenv("DVC_EXP_NAME", "lucky-fox")
    assert trace(checkout, "abc") == {**tags, "sar.dvc_experiment": "lucky-fox"}


def test_setting_is_named_by_the_last_part_of_each_path() -> None:
    values = {
        "regularizer.spatial_entropy.weight": 0.0123456,
        "train.clip_grad": None,
        "a.layers": [0, 1],
        "b.n": 12345,
    }
    assert config_name(values) == "weight=0.0123 clip_grad=None layers=[0, 1] n=12345"
    assert config_name({}) == ""


def test_two_methods_weights_are_told_apart() -> None:
    values = {"regularizer.spatial_entropy.weight": 0.1, "regularizer.total_variation.weight": 0.2, "train.lr": 0.002}
    assert config_name(values) == "spatial_entropy.weight=0.1 total_variation.weight=0.2 lr=0.002"
    assert config_name(values, short=True) == "spatial_entropy.w=0.1 total_variation.w=0.2 lr=0.002"


ENTRIES = ("tune/ray/trainable.py", "tune/controller.py")
UNHASHED = {
    "cluster": "where a file lies and which node runs a trial is not what it finds",
    "compute/gpu_usage.py": "measures, and is read by nothing that decides",
    "compute/host_usage.py": "measures, and is read by nothing that decides",
    "console/format.py": "words for people",
    "data/names.py": "the split is known by its hash",
    "data/splits": "the split is known by its hash",
    "errors.py": "words for people",
    "files": "how files of users are read, whose content is in the fingerprint, and how files are written",
    "provenance/code_hash.py": "which code a node has, and what the hashes are made by",
    "score/metrics/wording.py": "words for people, and the difference by which nothing that has run is another",
    "train/usage.py": "measures, and is read by nothing that decides",
    "compute/usage_summary.py": "words for people",
    "tune/journal": "how a journal is kept",
    "tune/table_cells.py": "how values are written into tables",
    "tune/ray/placement.py": "where trials run",
}
"""What the trainable and the controller import and no hash covers, with the reason."""


def test_all_code_that_decides_a_trial_is_hashed_or_has_a_reason_not_to_be() -> None:
    todo, seen = [ROOT / "pipeline" / entry for entry in ENTRIES], set()
    while todo:
        if (file := todo.pop()) not in seen:
            seen.add(file)
            todo += imported_by(file)
    needed = {file.relative_to(ROOT).as_posix() for file in seen if holds_code(file)}
    unhashed = needed - code_hashes().keys()
    excused = {entry: {name for name in unhashed if f"{name}/".startswith(f"pipeline/{entry}/")} for entry in UNHASHED}
    assert unhashed == set().union(*excused.values())
    assert all(excused.values()), "a reason for what is not there any more"
    assert {
        name for name in code_hashes() if "/journal/" in name or name.endswith(("placement.py", "summary.py"))
    } == set()


def test_parameter_that_is_added_later_renames_no_search() -> None:
    now = fingerprint_content(Params(), SPACE, data_hash="d", split_hash="s")
    before = json.loads(json.dumps(now))
    for name in ("erasing", "class_weights", "sampling"):
        del before["train"][name]
    del before["regularizer"]["total_variation"]
    assert fingerprint(before) == fingerprint(now) == fingerprint(json.loads(json.dumps(now)))
    del before["model"]["kwargs"]["depth"]  # of a mapping that is one parameter, every entry counts
    assert fingerprint(before) != fingerprint(now)


def test_number_of_workers_that_decode_is_no_part_of_the_fingerprint() -> None:
    hashes = {"data_hash": "d", "split_hash": "s"}
    more = Params().with_values({"train.workers": 3}, where="the test")
    assert fingerprint_content(Params(), {}, **hashes) == fingerprint_content(more, {}, **hashes)
    assert "workers" in Params().model_dump()["train"], "it was taken out of the parameters themselves"
