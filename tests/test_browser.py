"""What a person sees in the MLflow UI of a finished run, in headless Chromium.

Set SAR_SCREENSHOTS to a folder to keep a picture of every page.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from urllib.request import urlopen

import pytest
from copied import environment_of
from mlflow import MlflowClient
from mlflow_server import free_port
from support.browser import Browser, chromium
from support.checkout import TINY, Checkout

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs headless Chromium (Debian: chromium)"),
]

TRAINING = "?workflowType=machine_learning"
EXPAND = "document.querySelector('[data-component-id*=runnamecellrenderer]')"
PICTURE = "[...document.querySelectorAll('img')].some(each => each.src.startsWith('blob:') && each.naturalWidth > 300)"
LINES = "document.querySelectorAll('.js-plotly-plot .lines path').length"
FRAME = "document.querySelector('iframe')"
# The frame is closed to scripts outside of it, so what it was given is read again.
REPORT = f"{FRAME} && {FRAME}.offsetHeight > 300 ? fetch({FRAME}.src).then(each => each.text()) : ''"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the whole pipeline has run on a tiny setting; or the checkout that SAR_FINISHED_RUN names."""
    if finished := os.environ.get("SAR_FINISHED_RUN"):
        return Path(finished)
    checkout = Checkout(tmp_path_factory.mktemp("clone"), TINY)
    checkout.repro()
    return checkout.root


@pytest.fixture(scope="module")
def ui(root: Path) -> Iterator[str]:
    """The address that `sar-search ui` prints: the experiment's list of runs."""
    port = free_port()
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)]
    with (root / "ui.log").open("w+") as log:
        served = subprocess.Popen(command, cwd=root, env=environment_of(root), stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while "Ctrl-C ends it" not in Path(log.name).read_text() or not _answers(f"http://127.0.0.1:{port}/health"):
                assert served.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline
                time.sleep(0.3)
            # MLflow's own server names an address too, without the page.
            yield next(
                word for word in Path(log.name).read_text().split() if word.startswith("http://") and "#" in word
            )
        finally:
            served.send_signal(signal.SIGTERM)
            served.wait(60)


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, ui: str) -> Iterator[Browser]:
    program = chromium()
    assert program
    with Browser(program, tmp_path_factory.mktemp("chromium"), size=(1280, 860)) as browser:
        browser.open(ui)
        browser.wait_for("matching runs")
        # The assistant opens by itself at a first visit, over a third of the window.
        browser.run("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
        yield browser


@pytest.fixture
def shoot(page: Browser) -> Callable[[str], None]:
    """Keeps a picture of the page where one is asked for."""

    def keep(name: str) -> None:
        if folder := os.environ.get("SAR_SCREENSHOTS"):
            time.sleep(1.5)  # what moves has come to rest
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(Path(folder) / f"{name}.png")

    return keep


@pytest.fixture(scope="module")
def places(root: Path, ui: str) -> dict[str, str]:
    """Names and addresses of the search and of its best trial."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sar-search/digits")
    assert experiment
    found = {}
    for name, term in (("search", "tags.`sar.kind` = 'search'"), ("best", "tags.`sar.best` = 'true'")):
        (run,) = client.search_runs([experiment.experiment_id], term)
        found[f"{name} name"] = str(run.info.run_name)
        found[name] = f"{ui.partition('#')[0]}#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"
    return found


def test_the_list_of_experiments_has_the_data_set(page: Browser, ui: str, shoot: Callable[[str], None]) -> None:
    page.open(ui.partition("#")[0] + "#/experiments")
    page.wait_for("sar-search/digits")
    shoot("experiments")


def test_trials_are_nested_under_their_search_and_called_by_their_settings(
    page: Browser, ui: str, places: dict[str, str], shoot: Callable[[str], None]
) -> None:
    page.open(ui)
    closed = page.wait_for(places["search name"], "matching runs")
    assert places["best name"] not in closed
    assert "Prompts" not in closed  # the pages for language models
    page.wait_until(lambda: page.run(f"!!{EXPAND} && ({EXPAND}.click(), true)"), "the search to open")
    page.wait_for(places["best name"], "baseline w=0", "evaluation of best and baseline")
    shoot("runs")


def test_a_search_says_what_it_is_and_what_came_of_it(
    page: Browser, places: dict[str, str], shoot: Callable[[str], None]
) -> None:
    page.open(places["search"] + TRAINING)
    page.wait_for(places["search name"], "make repro", "trials over", "best/val/accuracy", "Child runs")
    shoot("search")


def test_a_trial_has_charts_by_epoch(page: Browser, places: dict[str, str], shoot: Callable[[str], None]) -> None:
    page.open(places["best"] + "/model-metrics" + TRAINING)
    page.wait_for("cross_entropy", "accuracy")
    page.wait_until(lambda: page.run(LINES) >= 3, "lines in the charts")
    shoot("charts")


def test_attention_is_seen_of_the_best_trial_and_side_by_side(
    page: Browser, places: dict[str, str], shoot: Callable[[str], None]
) -> None:
    for where, file in (("best", "validation_images.png"), ("search", "settings.png")):
        page.open(f"{places[where]}/artifacts/attention/{file}{TRAINING}")
        page.wait_for(f"attention/{file}")
        page.wait_until(lambda: page.run(PICTURE), "the picture")
        shoot(f"attention-{where}")


def test_the_report_is_seen_in_the_search(
    root: Path, page: Browser, places: dict[str, str], shoot: Callable[[str], None]
) -> None:
    page.open(f"{places['search']}/artifacts/report/index.html{TRAINING}")
    page.wait_for("report/index.html")
    verdict = json.loads((root / "results/evaluate/evaluation.json").read_text())["verdict"]
    page.wait_until(lambda: verdict in unescape(page.run(REPORT)), "the verdict in the report")
    shoot("report")
