"""One command that qualifies a GPU: what it can, whether we compute right there, how fast, and where time goes.

Run: python benchmarks/gpu.py [--part NAME ...] [--quick] [--seed N] [--results FOLDER]
     python benchmarks/gpu.py --anywhere      on a CPU and in Triton's interpreter, small: a trial of the code

Every part is a process of its own with a time limit; one that fails, crashes or hangs is named, and the others go on.
All of them take at most 5 minutes. Needs torch, torchvision, timm, triton and numpy; what else a part could use (numba,
scipy, cv2, kornia, cc_torch) it uses where it is there, and says so where it is not.

Ends with 0; 1 where a part has failed or something is wrong; 2 without a GPU; 130 interrupted.
"""

import argparse
import importlib
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gpu_parts import PARTS, PROBE_SECONDS  # noqa: E402
from gpu_parts.processes import Ended, Fleet  # noqa: E402
from gpu_parts.setting import Report, read_report  # noqa: E402
from gpu_parts.telling import Told, told, write_results  # noqa: E402

ANYWHERE_SECONDS = 600.0
"""For a part on a CPU, whose times say nothing: only what hangs is ended."""

NO_GPU = "needs a CUDA device, and torch sees none here; --anywhere tries the code on a CPU"


def inside(name: str, asked: argparse.Namespace) -> None:
    """Run one part in this process."""
    import faulthandler

    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1.0, asked.limit - 1.0))
    import torch
    from gpu_parts.setting import Setting

    torch.manual_seed(asked.seed)
    report = Report(asked.report)
    if name == "machine":
        from gpu_parts.machine import describe

        report.keep("machine", describe(anywhere=asked.anywhere))
        return
    device = torch.device("cpu" if asked.anywhere else "cuda")
    setting = Setting(device, asked.quick, asked.seed, time.monotonic() + asked.limit)
    importlib.import_module(f"gpu_parts.{PARTS[name].module}").run(setting, report)
    if device.type == "cuda":
        torch.cuda.synchronize()  # so that what went wrong on the device is told here


def command_of(name: str, asked: argparse.Namespace, *, limit: float, report: Path) -> list[str]:
    words = [sys.executable, "-u", __file__, "--inside", name, "--limit", f"{limit:.1f}", "--report", str(report)]
    words += ["--seed", str(asked.seed)]
    return words + [f"--{each}" for each in ("quick", "anywhere") if getattr(asked, each)]


def environment_of(name: str, *, anywhere: bool) -> dict[str, str]:
    """Of a part's process. The interpreter must be asked for before triton is imported, and never beside a GPU."""
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    if name == "correctness":
        kept["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # torch asks for it where memory is to be poisoned
    if anywhere:
        kept |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        if name in ("correctness", "entropy"):
            kept["TRITON_INTERPRET"] = "1"
    return kept


def run_parts(asked: argparse.Namespace, folder: Path, fleet: Fleet, begun: float) -> list[Told]:
    """One after another, so that none disturbs another; on a CPU, where nothing is measured, two at a time."""
    names = [name for name in PARTS if not asked.part or name in asked.part]

    def run_one(name: str) -> Told:
        # What earlier parts have left of their time is this one's too.
        due = PROBE_SECONDS + sum(PARTS[each].seconds for each in names[: names.index(name) + 1])
        limit = ANYWHERE_SECONDS if asked.anywhere else begun + due - time.monotonic()
        path = folder / f"{name}.json"
        command = command_of(name, asked, limit=limit, report=path)
        log = folder / f"{name}.log"
        ended = fleet.run(command, limit, log, environment_of(name, anywhere=asked.anywhere))
        print(f"{name}: {ended.how}, {ended.seconds:.0f} s{'; ' if ended.why else ''}{ended.why}", flush=True)
        return Told(name, ended, read_report(path), "" if ended.how == "done" else log.read_text(errors="replace"))

    with ThreadPoolExecutor(2 if asked.anywhere else 1) as pool:
        pending = [pool.submit(run_one, name) for name in names]
        try:
            return [each.result() for each in pending]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            fleet.end()
            raise


def probe(asked: argparse.Namespace, folder: Path, fleet: Fleet) -> tuple[Ended, dict[str, Any]]:
    """The machine as a process of its own sees it, so that a driver that hangs hangs there."""
    path, limit = folder / "machine.json", ANYWHERE_SECONDS if asked.anywhere else float(PROBE_SECONDS)
    command = command_of("machine", asked, limit=limit, report=path)
    ended = fleet.run(command, limit, folder / "machine.log", environment_of("machine", anywhere=asked.anywhere))
    return ended, read_report(path).detail.get("machine", {})


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:<12} {part.about}" for name, part in PARTS.items()),
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="this part alone; may be given several times")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--anywhere", action="store_true", help="on a CPU, small; measures nothing of a GPU")
    parser.add_argument("--seed", type=int, help="of all inputs; another one each time if not given")
    parser.add_argument("--results", type=Path, help="folder for figures and tables (default: benchmarks/results)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.seed is None:
        asked.seed = secrets.randbelow(10**6)
    if asked.seed < 0:
        parser.error("--seed: a whole number of 0 or more")
    return asked


def main(words: Sequence[str]) -> int:
    asked = parsed(words)
    if asked.inside:
        inside(asked.inside, asked)
        return 0
    fleet = Fleet()

    def interrupted(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)  # which a shell's background jobs ignore
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-parts-") as made:
            ended, machine = probe(asked, Path(made), fleet)
            if ended.how != "done":
                print(f"error: the device could not be looked at: {ended.how}: {ended.why}", file=sys.stderr)
                return 1
            if not asked.anywhere and machine["gpu"] is None:
                print(f"error: {NO_GPU}", file=sys.stderr)
                return 2
            print(f"{machine['device']}; seed {asked.seed}", flush=True)
            parts = run_parts(asked, Path(made), fleet, begun)
    except KeyboardInterrupt:
        fleet.end()
        print("interrupted: all parts were ended", file=sys.stderr)
        return 130
    command = " ".join(["python benchmarks/gpu.py", *words, *([] if "--seed" in words else [f"--seed {asked.seed}"])])
    table = told(machine, parts, command=command, seconds=time.monotonic() - begun)
    print(f"\n{table}")
    print(f"kept in {write_results(asked, machine, parts, table, command)}")
    return int(any(each.ended.how != "done" or each.report.wrong for each in parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
