"""A user's mistakes: each a message of a few lines, exit status 2, no traceback, and nothing started."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from filelock import FileLock
from support.checkout import TINY, Checkout

from pipeline.cli import main


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("clone"), TINY)


@pytest.fixture
def checkout(clone: Checkout) -> Iterator[Checkout]:
    """The clone, with its parameters and spaces put back afterwards."""
    kept = {path: path.read_bytes() for path in (clone.root / "params.yaml", clone.root / "search_spaces" / "sar.yaml")}
    yield clone
    for path, content in kept.items():
        path.write_bytes(content)


class Said(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """`sar-search` in the clone, by its entry point in this process: its imports take seconds, its checks do not."""

    def run(*arguments: str) -> Said:
        monkeypatch.chdir(checkout.root)
        monkeypatch.setattr(sys, "argv", ["sar-search", *arguments])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(checkout: Checkout, command: Callable[..., Said]) -> Callable[..., None]:
    """Assert that `sar-search check` refuses with these words, in a few lines, before anything has been started."""

    def check(*said: str) -> None:
        done = command("check")
        assert done.status == 2, done
        assert "Traceback" not in done.err
        assert len(done.err.strip().splitlines()) <= 6
        for words in said:
            assert words in done.err
        assert not (checkout.root / "results" / "search").exists()
        assert not (checkout.root / "state" / "searches").exists()

    return check


def _space(checkout: Checkout, text: str) -> None:
    (checkout.root / "search_spaces" / "sar.yaml").write_text(text)


COMMAND = str(Path(sys.executable).parent / "sar-search")
CONTROLS = "controls: {baseline: {regularizer.spatial_entropy.weight: 0.0}}\n"
WEIGHT = "regularizer.spatial_entropy.weight"
LAYERS = "regularizer.spatial_entropy.layers"


def test_check_prints_the_plan_and_starts_nothing(
    checkout: Checkout, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    done = command("check")
    assert done.status == 0, done.err
    assert "ignored   MLFLOW_RUN_ID" in done.out
    for words in ("1,797 images of 12 x 12, 10 classes, 1,797 with a mask", "2 trials and 2 controls", "mlflow.db"):
        assert words in done.out
    # Twelve runs of three epochs: those four, and with two further seeds both controls and the two best.
    assert "up to 2 configurations, and the controls, with further seeds: at most 8 runs" in " ".join(done.out.split())
    assert "36 epochs at most" in done.out
    assert not (checkout.root / "data" / "prepared").exists()
    assert not (checkout.root / "state" / "searches").exists()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (f"parameters: {{regularizer.spatial_entropy.wieght: {{type: float, low: 0.1, high: 1.0}}}}\n{CONTROLS}", "did you mean regularizer.spatial_entropy.weight?"),
        (f"parameters: {{{WEIGHT}: {{type: float, low: 1.0, high: 0.1}}}}\n{CONTROLS}", "low 1.0 must be below high 0.1"),
        (f"parameters: {{{LAYERS}: {{type: categorical, choices: [last, middle]}}}}\n{CONTROLS}", "given 'middle'; allowed: one of last"),
        (f"parameters: {{{LAYERS}: {{type: categorical, choices: [last, last_four]}}}}\n{CONTROLS}", "needs 4 blocks, but the network has 3"),
        (f"parameters: {{{LAYERS}: {{type: categorical, choices: [last_three, all]}}}}\n{CONTROLS}", "are the same blocks [0, 1, 2]"),
        ("parameters: {model.kwargs: {type: categorical, choices: [{patch_size: 2, depth: 2}, {patch_size: 5}]}}\n" + CONTROLS, "model.kwargs: patch_size 5 does not divide"),
        (f"parameters: {{model.kwargs: {{type: categorical, choices: [{{patch_size: 2, depth: 4}}, {{patch_size: 2, depth: 1}}]}}}}\ncontrols: {{baseline: {{}}, two: {{{LAYERS}: last_two, model.kwargs: {{patch_size: 2, depth: 1}}}}}}\n", "controls.two: regularizer.spatial_entropy.layers: layers 'last_two' needs 2 blocks"),
        ("parameters: {model.name: {type: categorical, choices: [vit_tiny_patch16_224, vit_tiny_patch16_225]}}\n" + CONTROLS, "model.name: timm has no model 'vit_tiny_patch16_225'"),
        ("parameters: {train.min_lr: {type: float, low: 0.0, high: 0.1}}\n" + CONTROLS, "train.min_lr 0.1 is above train.lr 0.002"),
        ("parameters: {train.warmup_lr: {type: categorical, choices: [null, 0.1]}}\n" + CONTROLS, "train.warmup_lr 0.1 is above train.lr 0.002"),
        ("parameters: {train.mixup: {type: categorical, choices: [0.0, 0.8]}, train.batch_size: {type: int, low: 1, high: 64}}\n" + CONTROLS, "train.batch_size: batches of 1 cannot be mixed"),
    ],
    ids=["unknown parameter", "low above high", "choice out of bounds", "more layers than blocks", "same blocks twice", "patches that do not fit", "control with too few blocks", "unknown network", "rate that rises", "warm-up that falls", "batches of one that are mixed"],
)  # fmt: skip
def test_check_refuses_a_wrong_space(checkout: Checkout, refused: Callable[..., None], space: str, said: str) -> None:
    _space(checkout, space)
    refused("search_spaces/sar.yaml: ", said)


PLUGIN = """
from pipeline.regularizers import Features, RequiredFeatures, RegularizerOutput, Regularizer

class Mine(Regularizer):
    def __init__(self, *, weight: float, strength: float = 1.0) -> None:
        super().__init__(weight, RequiredFeatures(similarity="last"))
        self.strength = strength

    def forward(self, features: Features) -> RegularizerOutput:
        loss = self.strength * features.similarity.square().mean()
        return RegularizerOutput(loss, {"value": loss.detach()})
"""


def test_check_tries_a_plugin_with_every_choice_of_its_options(
    checkout: Checkout, refused: Callable[..., None], command: Callable[..., Said]
) -> None:
    own = checkout.root / "my_methods.py"
    own.write_text(PLUGIN)
    space = "parameters: {regularizer.plugin_weight: {type: float, low: 0.1, high: 1.0}, regularizer.plugin_options: "
    space += "{type: categorical, choices: [{strength: 1.0}, {%s: 2.0}]}}\n" + CONTROLS
    try:
        checkout.set({"regularizer.plugin": "my_methods:Mine"})
        _space(checkout, space % "strenght")
        refused("search_spaces/sar.yaml: regularizer.plugin_options: my_methods:Mine does not take {'strenght': 2.0}")
        _space(checkout, space % "strength")
        done = command("check")
        assert done.status == 0, done.err
    finally:
        own.unlink()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"search.gpus_per_trial": 64.0, "base.device": "cpu"}, "search.gpus_per_trial: given 64, but this machine has 0"),
        ({"search.cpus_per_trial": 1000}, "search.cpus_per_trial: given 1000, but this machine has"),
        ({"retrain.workers_per_run": 1000}, "retrain.workers_per_run: given 1000, but a batch has 32 images, too few for each worker"),
        ({"retrain.workers_per_run": 1024, "train.batch_size": 2048, "base.device": "cpu"}, "retrain.workers_per_run: given 1024, each with 1 CPUs and 0 GPUs"),
        ({"search.scheduler.grace_period": 1}, "search.scheduler.grace_period: given 1; allowed: 2 to "),
        ({"search.sampler.name": "grid"}, "search.sampler.name: grid needs steps; regularizer.spatial_entropy.weight, regularizer.spatial_entropy.threshold of"),
        ({"search.sampler.name": "cmaes"}, "search.sampler.name: given 'cmaes'; CMA-ES has been taken out; set it to tpe or gp"),
        ({"search.points": {"mine": {"train.lr": 0.1}}}, "search.points.mine: train.lr: no dimension of search_spaces/sar.yaml; its dimensions: "),
        ({"search.warm_start": "7a64"}, "search.warm_start: 7a64: "),
        ({"search.warm_start": "none.csv"}, "search.warm_start: none.csv: cannot be read"),
        ({"search.space": "search_spaces/sra.yaml"}, "no file search_spaces/sra.yaml; there are search_spaces/baseline.yaml, search_spaces/cutmix.yaml"),
        ({"prepare.dataset": "image_folder"}, "prepare.root: is null, but prepare.dataset is image_folder"),
        ({"prepare.dataset": "image_folder", "prepare.root": "nowhere"}, "nowhere: No such file or directory. Set it to the folder or archive"),
        ({"prepare.dataset": "image_folder", "prepare.root": "dvc.yaml"}, "neither a folder nor an archive of a kind that can be read"),
        ({"prepare.dataset": "image_folder", "prepare.root": "data/mine"}, "lies in data/, which the pipeline writes"),
        ({"prepare.root": "photos"}, "prepare.root: cannot be used with prepare.dataset: digits"),
        ({"prepare.dataset": "folder"}, "prepare.dataset: given 'folder'; allowed: one of digits, image_folder"),
        ({"split.train_fraction": 0.0}, "split.train_fraction: given 0.0; allowed: number, above 0 and at most 1"),
        ({"retrain.control": "none"}, "retrain.control: given 'none'; the controls of search_spaces/sar.yaml: baseline, paper"),
        ({"model.name": "vit_tiny_patch16_225"}, "did you mean vit_tiny_patch16_224"),
        ({"model.kwargs": {"patch_sise": 2}}, "it knows no keyword 'patch_sise'"),
        ({"model.name": "resnet18"}, "model.name: resnet18 cannot be built"),
        ({"model.kwargs": {"patch_size": 5}}, "model.kwargs: patch_size 5 does not divide prepare.image_size 12; the last 2 rows"),
        ({"model.kwargs": {"patch_size": 2, "depth": 10**9}}, "model.kwargs: given depth 1000000000; allowed: at most 1000 blocks"),
        ({"model.kwargs": {"patch_size": 2, "depth": 2, "embed_dim": 192_000}}, "weights take 13,184 GiB to train"),
        ({"model.kwargs": {"patch_size": 2, "depth": 2, "num_heads": -2}}, 'can be built with {"patch_size": 2, "depth": 2, "num_heads": -2}, but not run: '),
        ({"model.kwargs": {"patch_size": 2, "depth": 2, "num_heads": -3}}, "but not run: "),
        ({"model.kwargs": {"patch_size": 2, "depth": 2, "patch_drop_rate": 0.5}}, "the last block gets fewer tokens than the 36 patches"),
        ({"model.kwargs": {"patch_size": 2, "depth": 4, "class_token": False, "global_pool": "avg"}}, "params.yaml: regularizer.spatial_entropy: VisionTransformer has no CLS token"),
        ({"model.kwargs": {"patch_size": 2, "norm_layer": 7}}, "model.kwargs: vit_tiny_patch16_224 cannot be built"),
        ({"model.kwargs": {"patch_size": 2, "pretrained_cfg": 7}}, "model.kwargs: pretrained_cfg cannot be given as keywords"),
        ({"model.kwargs": {"patch_size": 2, "checkpoint_path": "nowhere"}}, "model.kwargs: checkpoint_path cannot be given as keywords"),
        ({"model.kwargs": {"patch_size": 2, "device": "cpu"}}, "model.kwargs: device cannot be given as keywords"),
        ({"search.space": "x" * 300}, "search.space: no file 'xxx"),
        ({"prepare.dataset": "image_folder", "prepare.root": "x" * 300}, "File name too long"),
        ({"register.name": "mine/digits"}, "register.name: given 'mine/digits'; allowed: a name without /"),
        ({"regularizer.guided_transfer.weight": 0.1}, "regularizer.guided_transfer.source: is null, but guided transfer needs"),
        ({"regularizer.plugin": "nowhere_to_be_found:Mine", "regularizer.plugin_weight": 0.1}, "regularizer.plugin: nowhere_to_be_found:Mine: there is no module"),
        ({"regularizer.plugin": "nowhere", "regularizer.plugin_watch": True}, "regularizer.plugin: given 'nowhere'; needed: my_package.my_module:MyRegularizer"),
        ({"regularizer.head_disagreement.weight": 0.1, "model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 1}}, "regularizer.head_disagreement: head disagreement compares heads, but block 2"),
        ({"regularizer.total_variation.layers": "last_four", "regularizer.total_variation.weight": 0.1}, "regularizer.total_variation.layers: layers 'last_four' needs 4 blocks"),
        ({"train.lr": "fast"}, "train.lr: given 'fast'; allowed: number, above 0 and at most 10"),
    ],
)  # fmt: skip
def test_check_refuses_a_wrong_parameter(
    checkout: Checkout, refused: Callable[..., None], settings: dict[str, Any], said: str
) -> None:
    checkout.set(settings)
    refused("params.yaml: ", said)


def test_check_refuses_an_output_folder_that_cannot_be_written(
    checkout: Checkout, refused: Callable[..., None]
) -> None:
    blocked = checkout.root / "results"
    blocked.write_text("a file where the folder should be")
    try:
        refused(str(blocked), "cannot be written")
    finally:
        blocked.unlink()


def test_check_refuses_a_tracking_server_that_does_not_answer(
    refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connecting is refused at once
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        refused(address)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x89PNG\r\n\x1a\n\x00", "line 1: cannot be read: byte 0x89 is not UTF-8"), (b"base: !!python/object/apply:os.abort []\n", "line 1: not valid YAML")],
    ids=["picture", "Python's own tag"],
)  # fmt: skip
def test_check_refuses_a_file_that_is_none(
    checkout: Checkout, refused: Callable[..., None], content: bytes, said: str
) -> None:
    (checkout.root / "params.yaml").write_bytes(content)
    refused("params.yaml, ", said)


def test_check_does_not_offer_a_folder_as_a_space(checkout: Checkout, refused: Callable[..., None]) -> None:
    space = checkout.root / "search_spaces" / "sar.yaml"
    space.unlink()
    space.mkdir()
    try:
        refused("params.yaml: search.space: no file search_spaces/sar.yaml; there are search_spaces/baseline.yaml, ")
    finally:
        space.rmdir()


def test_check_refuses_a_tracking_address_that_is_none(checkout: Checkout, refused: Callable[..., None]) -> None:
    checkout.set({"tracking.uri": "http://[::1"})
    refused("tracking.uri is no address (Invalid IPv6 URL); give sqlite:///FILE or http(s)://HOST:PORT")


def test_check_tells_how_to_write_the_address_of_a_server(checkout: Checkout, refused: Callable[..., None]) -> None:
    checkout.set({"tracking.uri": "localhost:5000"})
    refused("tracking.uri is 'localhost:5000': ", "for an MLflow server there, write http://localhost:5000")


def test_train_refuses_a_value_that_is_no_yaml(command: Callable[..., Said]) -> None:
    done = command("train", "--set", "model.name=2024-13-45")
    assert done.status == 2
    assert "--set model.name, line 1: not valid YAML: '2024-13-45' cannot be read" in done.err


def test_stage_refuses_to_run_beside_another(checkout: Checkout) -> None:
    state = checkout.root / "state"
    state.mkdir(exist_ok=True)
    with FileLock(state / "stage.lock"):
        done = checkout.run(sys.executable, "-m", "pipeline.stages.prepare")
    assert done.returncode == 2
    assert "another process is running a stage of this checkout" in done.stderr
    assert "Traceback" not in done.stderr


def test_pipeline_refuses_to_run_twice_at_once(checkout: Checkout, command: Callable[..., Said]) -> None:
    state = checkout.root / "state"
    state.mkdir(exist_ok=True)
    with FileLock(state / "repro.lock"):
        said = command("repro")
    assert said.status == 2
    assert "another process is running the pipeline of this checkout" in said.err
    with FileLock(state / "stage.lock"):
        said = command("repro")
    assert said.status == 2
    assert "another process is running a stage of this checkout" in said.err
    assert not said.out


def test_command_outside_a_checkout_says_where_to_go(tmp_path: Path) -> None:
    done = subprocess.run([COMMAND, "promote"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "run this in a clone of the project's repository" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["status"], 0, "no searches yet in"),
        (["status", "7a"], 2, "search '7a': no id begins with this; there are none yet"),
        (["stop"], 2, "no search is running here"),
        (["stop", "--finish"], 2, "no search is running here"),
        (["logs", "t0000"], 2, "no searches yet in"),
        (["logs", "t0000", "--search", "7a"], 2, "search '7a': no id begins with this"),
        (["gc", "--dry-run"], 0, "nothing to remove"),
        (["gc"], 0, "nothing to remove"),
        (["gc", "--keep", "-1"], 2, "Invalid value for '--keep'"),
        (["dashboard"], 2, "no study yet"),
    ],
)  # fmt: skip
def test_questions_about_searches_before_there_are_any(
    command: Callable[..., Said], arguments: list[str], status: int, said: str
) -> None:
    done = command(*arguments)
    assert done.status == status
    assert said in done.out + done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "compare "),
        (["params"], "train.class_weights"),
        (["params", "search"], "search.budget.full_trainings"),
        (["datasets"], "oxford_pets"),
    ],
)
def test_lists_are_printed(command: Callable[..., Said], arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert (done.status, done.err) == (0, "")
    assert said in done.out


@pytest.mark.parametrize("answer", ["--resume-anyway", "--new"])
def test_check_without_measuring_takes_an_answer_beforehand(command: Callable[..., Said], answer: str) -> None:
    done = command("check", "--no-measure", answer)
    assert done.status == 0, done.err
    assert "2 trials and 2 controls" in done.out
    assert command("check", "--new", "--resume-anyway").status == 2


def test_promote_without_a_challenger_says_what_to_run_first(command: Callable[..., Said]) -> None:
    done = command("promote")
    assert done.status == 2
    assert "`make repro` registers one" in done.err


def test_results_before_a_run_say_what_to_run_first(command: Callable[..., Said]) -> None:
    done = command("results")
    assert done.status == 2
    assert "Run `make repro`." in done.err


def test_train_trains_one_setting_without_a_search(checkout: Checkout, command: Callable[..., Said]) -> None:
    for stage in ("prepare", "split"):
        assert checkout.run(sys.executable, "-m", f"pipeline.stages.{stage}").returncode == 0
    saved = ("--save", str(checkout.root / "backbone"))
    done = command("train", *saved, "--set", "train.epochs=2", "--set", "regularizer.spatial_entropy.weight=0.1")
    assert done.status == 0, done.err
    first, explained, *lines, used, left = done.out.strip().splitlines()
    assert first.startswith("training: vit_tiny_patch16_224 (")
    assert explained.startswith("METHOD/value: ")
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert "val/spatial_entropy/value" in lines[-1]
    assert used.startswith("used: CPU cores ")
    assert left.startswith(f"{saved[1]}: the checkpoint of the last epoch; ")


def test_train_refuses_an_unknown_parameter(command: Callable[..., Said]) -> None:
    done = command("train", "--set", "train.lrr=1")
    assert done.status == 2
    assert "--set: unknown parameter train.lrr; did you mean train.lr?" in done.err


@pytest.mark.parametrize(("name", "room"), [("check", "pipeline.commands.check"), ("repro", "pipeline.commands.repro")])
def test_an_impossible_tmpdir_is_told_before_imports_that_take_seconds(
    name: str, room: str, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/none")
    monkeypatch.setitem(sys.modules, room, None)  # importing it would fail
    said = command(name)
    assert said.status == 2
    assert said.err.startswith("error: TMPDIR: /proc/none: cannot be written")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "sar,nosuch", "--check"), "--run: no method nosuch; there are baseline, cutmix, drloc"),
        (("--run", "sar,gta", "--check"), "gta: "),  # without regularizer.guided_transfer.source
        (("--check",), "--check, --no-measure, --resume-anyway and --new can only be used with --run METHODS"),
        (("--run", "sar", "--against", "ab12"), "--run METHODS cannot be combined"),
        (("--run", "sar", "--new", "--resume-anyway"), "--resume-anyway and --new contradict each other"),
    ],
)
def test_a_comparison_that_cannot_be_run_is_refused_with_its_method(
    command: Callable[..., Said], checkout: Checkout, arguments: tuple[str, ...], said: str
) -> None:
    found = command("compare", *arguments)
    assert found.status == 2
    assert said in found.err
    assert "Traceback" not in found.err
    assert not (checkout.root / "results").exists()


def test_a_comparison_says_first_what_all_of_it_comes_to(command: Callable[..., Said], checkout: Checkout) -> None:
    checkout.set({"model.kwargs": {"patch_size": 2, "embed_dim": 16, "depth": 4, "num_heads": 2}})  # sp_vit's blocks
    found = command("compare", "--run", "sar,spvit", "--check", "--no-measure")
    assert (found.status, found.err) == (0, "")
    assert "3 one after the other, search.budget each: the control, sar, sp_vit" in found.out
    assert "sar varies train.lr too" in found.out
    assert "6 networks, 2 seeds of each method and of the control" in " ".join(found.out.split())
    assert not (checkout.root / "results").exists()
