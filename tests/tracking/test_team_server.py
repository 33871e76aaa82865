"""A team's server (PostgreSQL, S3, accounts) keeps a search's record whole, and says no before work starts."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from support.checkout import TINY, Checkout
from support.services import BUCKET, PASSWORD, S3_KEYS, MlflowServer, TeamServer, postgres_programs, query, team_server

from pipeline.errors import UserError
from pipeline.tracking.permissions import require_access
from pipeline.tracking.registry.champion import history, move_champion
from pipeline.tracking.runs import SearchLog
from pipeline.tracking.single_run import log_run
from pipeline.tracking.store import Store, client, experiment_id, prepare_store, resolve_store

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(postgres_programs() is None, reason="needs PostgreSQL's server programs (Debian: postgresql)"),
]

As = Callable[..., Store]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    programs = postgres_programs()
    assert programs
    with team_server(tmp_path_factory.mktemp("team"), programs) as started:
        yield started


@pytest.fixture
def log_in(team: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> As:
    """Gives the store as somebody (None: nobody) sees it."""

    def log_in_as(name: str | None, password: str = PASSWORD) -> Store:
        for key, value in (("USERNAME", name), ("PASSWORD", password)):
            monkeypatch.delenv(f"MLFLOW_TRACKING_{key}", raising=False)
            if name is not None:
                monkeypatch.setenv(f"MLFLOW_TRACKING_{key}", value or "")
        return resolve_store(team.uri, tmp_path)

    return log_in_as


def keys_in_s3(team: TeamServer) -> list[str]:
    with urlopen(f"{team.s3}/{BUCKET}?list-type=2&max-keys=1000", timeout=10) as answer:
        return [part.partition("</Key>")[0] for part in answer.read().decode().split("<Key>")[1:]]


def test_nobody_and_a_wrong_password_are_told_what_to_set(log_in: As) -> None:
    with pytest.raises(UserError, match=r"requires a login.*\n.*set MLFLOW_TRACKING_USERNAME"):
        prepare_store(log_in(None))
    with pytest.raises(UserError, match=r"requires the password of 'ann' .*\n.*set MLFLOW_TRACKING_PASSWORD"):
        prepare_store(log_in("ann", ""))
    with pytest.raises(UserError, match=r"does not take the password of 'ann'") as refused:
        prepare_store(log_in("ann", "not this one"))
    assert "not this one" not in str(refused.value)
    prepare_store(log_in("ann"))


def test_a_name_that_the_server_does_not_go_by_is_told_with_the_option_that_adds_it(
    team: TeamServer, tmp_path: Path
) -> None:
    address = f"localhost:{team.server.port}"  # the same machine by another name
    with pytest.raises(UserError, match=f"--allowed-hosts {address}"):
        prepare_store(resolve_store(f"http://{address}", tmp_path))


def test_files_can_be_stored_or_it_is_told_before_work(team: TeamServer, log_in: As, tmp_path: Path) -> None:
    store = log_in("ann")
    experiment_id(store, "with files")
    require_access(store, experiment="with files", model="none")
    assert not [key for key in keys_in_s3(team) if "sar-search-check" in key]
    environment = S3_KEYS | {"MLFLOW_S3_ENDPOINT_URL": team.s3}
    database = f"sqlite:///{tmp_path}/other.db"
    with MlflowServer(tmp_path, database=database, artifacts="s3://missing/mlflow", environment=environment) as server:
        other = resolve_store(server.uri, tmp_path)
        refused = pytest.raises(
            UserError, match=r"cannot store files.*bucket does not exist\n.*--artifacts-destination"
        )
        with refused:
            require_access(other, experiment="none yet", model="none")
        experiment_id(other, "made")
        with refused:
            require_access(other, experiment="made", model="none")


def test_an_experiment_or_a_model_of_somebody_else_is_refused_before_work(team: TeamServer, log_in: As) -> None:
    made = experiment_id(log_in("ann"), "of ann")
    client(log_in("ann")).create_registered_model("of-ann")
    names = {"experiment": "of ann", "model": "of-ann"}
    require_access(log_in("ann"), **names)
    require_access(log_in("bob"), experiment="nobody's yet", model="nobodys-yet")
    with pytest.raises(UserError, match=r"experiment 'of ann' failed.*\n.*'bob' may not do this.*\n.*permission"):
        require_access(log_in("bob"), **names)
    team.grant("bob", "experiment", made, "EDIT")
    with pytest.raises(UserError, match=r"registered model 'of-ann' failed.*\n.*'bob' may not"):
        require_access(log_in("bob"), **names)
    team.grant("bob", "registered_model", "of-ann", "EDIT")
    require_access(log_in("bob"), **names)
    store = log_in("bob")
    log_run(store, experiment="of ann", key="k", name="bob's", params={}, metrics={"accuracy": 0.5})


def test_a_searchs_record_is_whole_in_postgresql_and_its_files_lie_in_s3(
    team: TeamServer, log_in: As, tmp_path: Path
) -> None:
    store = log_in("ann")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "seen.txt").write_text("attention")
    told: dict[str, Any] = {"experiment": "whole", "fingerprint": "1f3a", "name": "a search", "params": {"lr": 0.1}}
    for _ in range(2):  # told again by the next process, nothing is doubled
        with SearchLog(store, description="x" * 3000, flush_s=0.05, **told) as log:
            for trial in "ab":
                log.start_trial(trial, f"trial {trial}", {"weight": 0.1, "long": "x" * 7000})
                for epoch in range(1, 51):
                    log.log_epoch(trial, epoch, {"loss": float("nan") if epoch == 7 else 1 / epoch, "acc": epoch})
                log.end_trial(trial, "complete", tags={"sar.reason": "é" * 6000})
            log.log_artifacts("a", tmp_path / "pictures")
        assert log.num_pending == 0
    runs = {run.info.run_name: run for run in client(store).search_runs([experiment_id(store, "whole")])}
    assert {run.data.tags["mlflow.user"] for run in runs.values()} == {"ann"}
    assert set(runs) == {"a search", "trial a", "trial b"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs["a search"].info.run_id
    nested = client(store).search_runs([experiment_id(store, "whole")], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_name for run in nested} == {"trial a", "trial b"}
    one = runs["trial a"].info.run_id
    counted = query(team.database, f"SELECT key, count(*) FROM metrics WHERE run_uuid = '{one}' GROUP BY key")
    assert dict(counted) == {"loss": 49, "acc": 50}
    assert runs["trial a"].data.tags["sar.nonfinite.loss"] == "7"
    assert [key for key in keys_in_s3(team) if key.endswith(f"{one}/artifacts/seen.txt")]


def test_who_moved_the_champion_is_the_account_and_not_the_login_of_the_machine(log_in: As, tmp_path: Path) -> None:
    name = "moved-by-ann"
    registry = client(log_in("ann"))
    registry.create_registered_model(name)
    registry.create_model_version(name, "s3://elsewhere/model")
    assert move_champion(log_in("ann"), name, 1, expected=None, reason=None).by == "ann"
    (move,) = history(log_in("ann"), name)[0]
    assert move.by == "ann"
    assert registry.get_model_version(name, "1").tags["sar.promoted.by"] == "ann"
    store = log_in("bob")
    run = log_run(store, experiment="of bob", key="k", name="bob's", params={}, metrics={})
    assert client(store).get_run(run).data.tags["mlflow.user"] == "bob"


def test_a_permission_that_is_taken_away_during_a_search_loses_nothing(
    team: TeamServer, log_in: As, caplog: pytest.LogCaptureFixture
) -> None:
    made = experiment_id(log_in("ann"), "taken away")
    team.grant("bob", "experiment", made, "EDIT")
    store = log_in("bob")
    told: dict[str, Any] = {"experiment": "taken away", "fingerprint": "1f3a", "name": "a search", "params": {}}
    log = SearchLog(store, description="", flush_s=0.05, **told)
    team.revoke("bob", "experiment", made)
    log.start_trial("a", "trial a", {})
    log.log_epoch("a", 1, {"loss": 1.0})
    log.end_trial("a", "complete")
    assert log.close(timeout_s=3) > 0
    assert "The search goes on" in caplog.text
    team.grant("bob", "experiment", made, "EDIT")
    with SearchLog(store, description="", flush_s=0.05, **told) as again:
        again.start_trial("a", "trial a", {})
        again.log_epoch("a", 1, {"loss": 1.0})
        again.end_trial("a", "complete")
    assert again.num_pending == 0


def test_an_s3_store_that_this_machine_writes_to_itself_takes_files_and_says_what_is_wrong(
    team: TeamServer, log_in: As, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = log_in("ann")
    client(store).create_experiment("direct", f"s3://{BUCKET}/direct")
    (tmp_path / "seen.txt").write_text("attention")
    run: dict[str, Any] = {"experiment": "direct", "name": "a run", "params": {}, "metrics": {}}
    run["artifacts"] = {"": tmp_path / "seen.txt"}
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", team.s3)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    _cached_get_s3_client.cache_clear()  # another user is another process
    with pytest.raises(UserError, match=r"logging the run 'a run' failed.*\n.*credentials"):
        log_run(store, key="without keys", **run)
    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    _cached_get_s3_client.cache_clear()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    log_run(store, key="with keys", **run)
    assert [key for key in keys_in_s3(team) if key.startswith("direct/") and key.endswith("/seen.txt")]
    monkeypatch.setattr("pipeline.tracking.store.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs boto3 here\n.*\[s3\]"):
        require_access(store, experiment="direct", model="none")


@pytest.fixture(scope="module")
def done(team: TeamServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, dict[str, str]]:
    """A clone whose whole pipeline ann has run against the server, and the environment in which she did."""
    settings = {"tracking.uri": team.uri, "tracking.experiment": "team", "register.name": "team-digits"}
    checkout = Checkout(tmp_path_factory.mktemp("clone"), TINY | settings | {"search.max_concurrent_trials": 1})
    ann = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    ran = checkout.search("repro", env=ann)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    # The row of retrain.seeds has the lines that head it, although the plan has printed them too.
    assert ran.stdout.partition("results   results/search\n")[2].startswith("power ")
    return checkout, ann


def test_the_whole_pipeline_runs_against_it(
    team: TeamServer, done: tuple[Checkout, dict[str, str]], log_in: As
) -> None:
    checkout, _ = done
    registry: MlflowClient = client(log_in("ann"))
    runs = registry.search_runs([experiment_id(log_in("ann"), "team")])
    assert {run.info.status for run in runs} == {"FINISHED"}
    kinds = [run.data.tags["sar.kind"] for run in runs]
    assert {kind: kinds.count(kind) for kind in ("search", "retrain", "evaluation")} == {"search": 1, "retrain": 4, "evaluation": 1}  # fmt: skip
    assert {run.data.tags["mlflow.user"] for run in runs} == {"ann"}
    challenger = registry.get_model_version_by_alias("team-digits", "challenger")
    assert challenger.tags["sar.search_run"] in {run.info.run_id for run in runs}
    assert not (checkout.root / "mlflow.db").exists()
    assert not (checkout.root / "mlartifacts").exists()
    stored = [path for path in checkout.root.rglob("*") if path.is_file() and path.stat().st_size < 1_000_000]
    assert not [path for path in stored if PASSWORD.encode() in path.read_bytes()]


def test_the_commands_read_it_and_move_the_champion(done: tuple[Checkout, dict[str, str]]) -> None:
    checkout, ann = done
    checkout.set({"promote.max_ece": None, "promote.control": "any", "promote.min_accuracy": 0})
    promoted = checkout.search("promote", "--reason", "for the tests", env=ann)
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    listed = checkout.search("models", env=ann)
    assert "champion" in listed.stdout
    assert "by ann  for the tests" in listed.stdout
    (judged,) = (checkout.root / "state" / "promotions.jsonl").read_text().splitlines()
    assert json.loads(judged)["by"] == "ann"
    asked = [sys.executable, "-c", "import numpy as np; from PIL import Image; "]
    asked[2] += "Image.fromarray(np.load('data/prepared/images.npy')[0].squeeze()).save('digit.png')"
    assert checkout.run(*asked).returncode == 0
    answered = checkout.search("predict", "--json", "digit.png", env=ann)
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)[0]["error"] is None
    shown = checkout.search("ui", env=ann)
    assert "a server with a UI of its own" in shown.stdout


def test_bob_is_refused_by_the_check_and_not_after_hours(done: tuple[Checkout, dict[str, str]]) -> None:
    checkout, ann = done
    refused = checkout.search("check", env=ann | {"MLFLOW_TRACKING_USERNAME": "bob"})
    assert refused.returncode == 2, refused.stdout
    assert "'bob' may not do this (status 403)" in refused.stderr
    assert "Traceback" not in refused.stderr
    nobody = checkout.search("check", env=dict.fromkeys(ann, ""))
    assert nobody.returncode == 2
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in nobody.stderr
