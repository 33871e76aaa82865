"""The command that qualifies a GPU, where there is none: whole, with little installed, and what becomes of parts that fail."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from copied import ROOT
from gpu_parts import MOST_SECONDS, PARTS, PROBE_SECONDS
from gpu_parts.checking import Comparison, poisoned
from gpu_parts.correctness import judge
from gpu_parts.processes import Ended, Fleet, how_it_ended
from gpu_parts.profiling import busy_and_gaps, device_spans
from gpu_parts.reference import entropies, nasty
from gpu_parts.setting import Report, Setting, read_report
from gpu_parts.telling import Told, told, write_results
from gpu_parts.training import default_case, fitting, vit_s

from pipeline.config import load_params
from pipeline.regularizers.kernels.entropy_plain import plain_entropy

ABSENT = ("ray", "optuna", "mlflow", "dvc", "pydantic", "ruamel")
GPU = str(ROOT / "benchmarks" / "gpu.py")
CPU = torch.device("cpu")


def setting(seconds: float = 60.0) -> Setting:
    return Setting(CPU, False, 3, time.monotonic() + seconds)


def bare(folder: Path, *absent: str) -> dict[str, str]:
    """An environment in which some packages cannot be imported, by whatever process that inherits it."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n")
    return os.environ | {"PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""}


# The command.


@pytest.mark.slow
def test_whole_command_runs_anywhere_where_nothing_of_the_search_is_installed(tmp_path: Path) -> None:
    before = set((ROOT / "benchmarks" / "results").iterdir())
    command = [sys.executable, GPU, "--anywhere", "--seed", "5", "--results", str(tmp_path / "out")]
    ended = subprocess.run(command, env=bare(tmp_path, *ABSENT), capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kept = json.loads((tmp_path / "out" / "gpu_on_cpu.json").read_text())
    assert {name: part["status"] for name, part in kept["parts"].items()} == dict.fromkeys(PARTS, "done")
    assert kept["gpu"] is None
    assert "no GPU" in kept["device"]
    assert {part["on"] for part in kept["parts"].values()} == {"CPU"}
    assert kept["seed"] == 5
    checked = {figure["name"].partition(",")[0] for figure in kept["parts"]["correctness"]["figures"]}
    assert {
        "entropy kernel",
        "row kernels",
        "augmentation kernels",
        "rows beside attention",
        "networks with regularisers",
    } <= checked
    # Nothing is shown as a figure of a GPU.
    table = (tmp_path / "out" / "gpu_on_cpu.md").read_text()
    assert table in ended.stdout
    assert table.startswith("# no GPU: a trial of the code on a CPU, whose figures say nothing of a GPU\n")
    units = [
        line.split("|")[-2].strip()
        for line in table.split("## profile")[0].split("## ceilings")[1].splitlines()
        if line.startswith("| ")
    ]
    assert {unit for unit in units if unit not in ("unit", "---")} == {unit for unit in units if unit.endswith("(CPU)")}
    assert set((ROOT / "benchmarks" / "results").iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, GPU, "--results", str(tmp_path / "out")], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: needs a CUDA device, and torch sees none here; --anywhere tries the code on a CPU\n"
    assert not (tmp_path / "out").exists()


def test_interruption_ends_all_parts(tmp_path: Path) -> None:
    words = [sys.executable, GPU, "--anywhere", "--part", "correctness", "--results", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "seed" in process.stdout.readline()
        while not (parts := children(process.pid)):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("interrupted: all parts were ended\n")
    assert not [each for each in parts if Path(f"/proc/{each}/cmdline").exists()]
    assert not list(tmp_path.iterdir())


def children(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]


def test_parts_have_five_minutes_together() -> None:
    assert sum(part.seconds for part in PARTS.values()) + PROBE_SECONDS <= MOST_SECONDS == 300


def test_what_trains_imports_where_nothing_of_the_search_is_installed_nor_what_is_optional(tmp_path: Path) -> None:
    rooms = ("train", "regularizers", "models", "data", "compute")
    code = f"""
        import importlib, pkgutil
        for room in {rooms}:
            package = importlib.import_module("pipeline." + room)
            for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                try:
                    importlib.import_module(module.name)
                except ModuleNotFoundError as error:
                    print(module.name, error.name)
    """
    environment = bare(tmp_path, *ABSENT, "scipy", "numba", "imagehash")
    command = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    missing = {tuple(line.split()) for line in said.splitlines()}
    # What is compiled by numba, split by scipy or compared by imagehash is imported by who uses it alone.
    assert {lacking for *_, lacking in missing} <= {"numba", "scipy", "scipy.sparse", "imagehash"}
    assert {module.removeprefix("pipeline.") for module, _ in missing} == {
        "compute.compiled", "data.augment.crop_kernels", "data.augment.mask_kernels", "data.augment.pixel_kernels",
        "data.splits.assignment", "data.splits.duplicates", "data.splits.folds", "data.splits.split", "regularizers.kernels.entropy_numba",
    }  # fmt: skip


def test_default_trial_is_read_from_the_parameters_as_pydantic_reads_them() -> None:
    params = load_params(ROOT / "params.yaml")
    case, config, side = default_case()
    assert (case.model, config, side) == (params.model.config(), params.train.config(), params.prepare.image_size)


# Parts that go wrong.


@pytest.mark.parametrize(
    ("code", "limit", "how", "why"),
    [
        ("print('fine')", 60, "done", ""),
        ("print('so far'); raise RuntimeError('no kernel image')", 60, "failed", "RuntimeError: no kernel image"),
        ("import os; os.abort()", 60, "crashed", "Aborted"),
        (
            "import faulthandler; faulthandler.enable(); faulthandler._sigsegv()",
            60,
            "crashed",
            "Segmentation fault, in <module>",
        ),
        ("import time; time.sleep(600)", 0.5, "timed out", "not done after 0 s"),
    ],
)
def test_end_of_a_part_is_told_whatever_it_is(code: str, limit: float, how: str, why: str, tmp_path: Path) -> None:
    ended = Fleet().run([sys.executable, "-c", code], limit, tmp_path / "log")
    assert ended.how == how
    assert ended.why.startswith(why)
    assert bool(ended.why) == bool(why)


def test_part_that_hangs_is_told_with_the_place_where_it_was() -> None:
    said = """so far
Timeout (0:01:14)!
Thread 0x1 (most recent call first):
  File "/usr/lib/python3/threading.py", line 327 in wait
Thread 0x2 (most recent call first):
  File "/x/benchmarks/gpu_parts/step.py", line 40 in measure
  File "/x/benchmarks/gpu.py", line 9 in main
"""
    why = "not done after 75 s, in measure (step.py, line 40)"
    assert how_it_ended(None, 75.0, said, True) == ("timed out", why)
    beyond = "; it could not be ended and may still hold the device"
    assert how_it_ended(None, 75.0, said, False) == ("timed out", why + beyond)


def test_part_that_is_ended_takes_what_it_started_along_and_keeps_what_it_had_found(tmp_path: Path) -> None:
    code = f"""if True:
        import subprocess, sys, time
        from pathlib import Path
        sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
        from gpu_parts.setting import Report
        Report(Path({str(tmp_path / "report.json")!r})).add("bandwidth", 3.0, "GB/s")
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(worker.pid, flush=True)
        time.sleep(600)
    """
    fleet = Fleet()
    found: list[Ended] = []
    thread = threading.Thread(
        target=lambda: found.append(fleet.run([sys.executable, "-c", code], 300, tmp_path / "log"))
    )
    thread.start()
    while not (tmp_path / "log").exists() or not re.search(r"\d+\n", (tmp_path / "log").read_text()):
        time.sleep(0.05)
    worker = int((tmp_path / "log").read_text())
    fleet.end()
    thread.join()
    assert found[0].how == "crashed"
    assert [figure.value for figure in read_report(tmp_path / "report.json").figures] == [3.0]
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert fleet.run([sys.executable, "-c", ""], 60, tmp_path / "log").why == "interrupted"


def test_memory_that_does_not_suffice_takes_a_smaller_batch_and_says_so() -> None:
    tried, report = [], Report()

    def attempt(case: object) -> str:
        tried.append(case.batch)  # type: ignore[attr-defined]
        if case.batch > 1:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    assert fitting(vit_s(setting()), attempt, report) == "done"
    assert tried == [4, 2, 1]
    assert report.notes == ["out of memory: batches of 2 images instead", "out of memory: batches of 1 images instead"]
    with pytest.raises(ValueError, match="another"):
        fitting(vit_s(setting()), lambda case: (_ for _ in ()).throw(ValueError("another")), report)


# What is right.


def checked(work: object, within: float = 1e-6) -> Report:
    report = Report()

    def check(given: Setting) -> object:
        with poisoned(given.device):
            found = work()  # type: ignore[operator]
        yield Comparison("sum", found, torch.ones(8, dtype=torch.float64), within)

    judge("kernel", check, setting(), report)  # type: ignore[arg-type]
    return report


def test_kernel_that_leaves_a_part_of_its_output_unwritten_is_caught() -> None:
    torch.ones(8)  # which a memory that is not poisoned may still hold

    def unwritten() -> torch.Tensor:
        made = torch.empty(8)
        made[:7] = 1.0
        return made

    assert checked(lambda: torch.empty(8).fill_(1.0)).wrong == []
    assert checked(unwritten).wrong == ["kernel: sum: inf times the error that is allowed"]
    assert checked(lambda: torch.ones(8) * (1 + 1e-5)).wrong != []
    assert checked(lambda: torch.ones(7)).wrong == ["kernel: sum: inf times the error that is allowed"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_check_that_raises_is_wrong_and_one_that_lacks_a_package_is_noted() -> None:
    def raising() -> None:
        raise RuntimeError("an illegal memory access\nand more")

    def lacking() -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    assert checked(raising).wrong == ["kernel: RuntimeError: an illegal memory access"]
    assert checked(lacking).notes == ["kernel: checked 0, the rest needs scipy"]


@pytest.mark.parametrize("connectivity", [4, 8])
def test_reference_is_what_plain_pytorch_gives(connectivity: int) -> None:
    maps = nasty(7, torch.Generator().manual_seed(1))
    thresholds = torch.zeros(len(maps), dtype=torch.float64)
    found, expected = entropies(maps, thresholds, connectivity), plain_entropy(maps, thresholds, connectivity, True)
    assert 0 < int(found[1].sum()) < len(maps)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# What is told.

GIVEN = {"name": "NVIDIA X", "memory_gib": 8.0, "multiprocessors": 4, "cuda": "13.0"}
MACHINE = {
    "device": "NVIDIA X",
    "gpu": GIVEN,
    "processor": "a CPU, 2 cores",
    "python": "3.12",
    "versions": {"torch": "2.11"},
}


def parts() -> list[Told]:
    fine, wrong = Report(), Report()
    fine.values("copy", [3100.0, 2900.0, 3000.0], "GB/s")
    fine.note("no kornia")
    fine.keep("longest", {"columns": ["kernel", "us"], "rows": [["gemm", "12.0"]]})
    wrong.add("entropy kernel", 3.0, "of the allowed")
    wrong.fail("entropy kernel: gradient")
    return [
        Told("ceilings", Ended("done", "", 3.2), fine),
        Told("correctness", Ended("done", "", 4.0), wrong),
        Told("step", Ended("timed out", "not done after 75 s", 75.0), Report(), "its log"),
    ]


def test_table_names_machine_command_parts_and_what_is_wrong() -> None:
    text = told(MACHINE, parts(), command="python benchmarks/gpu.py --seed 1", seconds=82.0)
    for line in (
        "# NVIDIA X, 8.0 GiB, 4 multiprocessors, CUDA 13.0",
        "a CPU, 2 cores; Python 3.12, torch 2.11",
        "| ceilings | done | 3 s |  |",
        "| correctness | WRONG | 4 s |  |",
        "| step | TIMED OUT | 75 s | not done after 75 s |",
        "| copy | 3,000 (2,900-3,100) | GB/s |",
        "| entropy kernel | 3 | of the allowed |",
        "**wrong**: entropy kernel: gradient",
        "not measured, or otherwise than one might think: no kornia",
        "| gemm | 12.0 |",
        "nothing",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("part", "quick", "gpu", "name"),
    [
        (None, False, GIVEN, "gpu"),
        (["step"], True, GIVEN, "gpu_quick_ceilings_correctness_step"),
        (None, False, None, "gpu_on_cpu"),
    ],
)
def test_results_are_kept_by_what_was_asked(
    part: list[str] | None, quick: bool, gpu: dict[str, object] | None, name: str, tmp_path: Path
) -> None:
    asked = Namespace(results=tmp_path / "new", quick=quick, part=part, seed=4)
    path = write_results(asked, {**MACHINE, "gpu": gpu}, parts(), "a table", "the command")
    assert path == tmp_path / "new" / f"{name}.json"
    kept = json.loads(path.read_text())
    assert [kept["gpu"], kept["command"], kept["seed"]] == [gpu, "the command", 4]
    assert {each["on"] for each in kept["parts"].values()} == {"NVIDIA X" if gpu else "CPU"}
    assert kept["parts"]["step"]["log"] == "its log"
    assert path.with_suffix(".md").read_text() == "a table"


def event(name: str, begin: float, end: float, *, device: str = "CUDA", marked: bool = False) -> SimpleNamespace:
    kind, span = SimpleNamespace(name=device), SimpleNamespace(start=begin, end=end)
    return SimpleNamespace(name=name, device_type=kind, time_range=span, is_user_annotation=marked)


def test_idle_time_is_what_no_kernel_covers() -> None:
    events = [
        event("b", 4, 9), event("a", 0, 2), event("inside of b", 5, 6), event("beside b", 8, 10), event("c", 13, 14),
        event("Optimizer.step#AdamW.step", 0, 14), event("a mark", 0, 14, marked=True), event("cudaLaunchKernel", 0, 14, device="CPU"),
    ]  # fmt: skip
    spans = device_spans(events)
    assert [span.name for span in spans] == ["a", "b", "inside of b", "beside b", "c"]
    assert busy_and_gaps(spans) == (2 + 6 + 1, [2, 3])
