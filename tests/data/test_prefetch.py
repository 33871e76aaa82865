"""Claims about encoded sets in batches: decoded as the rows are, by workers that change no bit and are gone with the run."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.augment.augment import Augmentation
from pipeline.data.batches import prefetch
from pipeline.data.batches.batches import ImageBatches, Standardisation, standardisation
from pipeline.data.batches.image_store import ImageStore, on_host
from pipeline.data.batches.prefetch import decode_rows, run_ahead
from pipeline.data.prepared.encoded import EncodedRows
from pipeline.data.prepared.prepared import Prepared
from pipeline.errors import UserError

CPU = torch.device("cpu")
COUNT = 40


def encode(folder: Path, count: int = COUNT) -> EncodedRows:
    """Images whose grey level is five times their row, as PNGs so that nothing is lost."""

    index, files = [], []
    for row in range(count):
        file = io.BytesIO()
        Image.fromarray(np.full((6, 5, 3), 5 * row % 256, dtype=np.uint8)).save(file, "PNG")
        index.append((sum(map(len, files)), len(file.getvalue())))
        files.append(file.getvalue())
    (folder / "images.bin").write_bytes(b"".join(files))
    np.save(folder / "images.index.npy", np.array(index, dtype=np.int64))
    return EncodedRows(folder, "images", (6, 5, 3))


def batches(images: Any) -> ImageBatches:
    prepared = Prepared(images, np.arange(len(images), dtype=np.int64), None, {})
    return ImageBatches(prepared, range(1, len(images)), Standardisation((0.5,) * 3, (0.25,) * 3), CPU)


def children() -> set[int]:
    task = Path(f"/proc/{os.getpid()}/task")
    found: set[int] = set()
    for each in task.iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended since
            found |= {int(name) for name in (each / "children").read_text().split()}
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("augmentation", [None, Augmentation("light"), Augmentation("deit", erasing=0.5)])
def test_encoded_sets_give_the_batches_of_arrays_whoever_decodes(
    augmentation: Augmentation | None, workers: int, tmp_path: Path
) -> None:
    images = encode(tmp_path)
    stream = torch.get_rng_state()
    ours, theirs = batches(images), batches(images[:])
    asked: dict[str, Any] = {"seed": 2, "epoch": 3, "augmentation": augmentation}
    found = list(ours.shuffled(7, **asked, workers=workers))
    expected = list(theirs.shuffled(7, **asked))
    for (inputs, labels), (others, answers) in zip(found, expected, strict=True):
        assert torch.equal(inputs, others)
        assert torch.equal(labels, answers)
    for (inputs, labels), (others, answers) in zip(ours.in_order(9, workers=workers), theirs.in_order(9), strict=True):
        assert torch.equal(inputs, others)
        assert torch.equal(labels, answers)
    assert torch.equal(torch.get_rng_state(), stream)


def test_threads_decode_the_rows_in_their_order(tmp_path: Path) -> None:
    images = encode(tmp_path)
    rows = np.array([5, 0, 39, 7, 7])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert np.array_equal(decode_rows(images, rows), images[rows])
        assert standardisation(images, rows) == standardisation(images[rows])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_is_told_whoever_decodes(workers: int, tmp_path: Path) -> None:
    encode(tmp_path)
    with (tmp_path / "images.bin").open("r+b") as file:
        file.write(bytes(60))
    images = EncodedRows(tmp_path, "images", (6, 5, 3))
    prepared = Prepared(images, np.arange(COUNT, dtype=np.int64), None, {})
    all_of_it = ImageBatches(prepared, range(COUNT), Standardisation((0.5,) * 3, (0.25,) * 3), CPU)
    before = children() if sys.platform == "linux" else set()
    with pytest.raises(
        UserError, match=r"^\S+images\.bin: row 0 is damaged .*Run `dvc repro --single-item --force prepare`\.$"
    ):
        list(all_of_it.in_order(8, workers=workers))
    # Even while the error is kept, as pytest keeps it.
    assert sys.platform != "linux" or children() == before


@linux
def test_workers_are_gone_when_a_pass_is_over_or_left(tmp_path: Path) -> None:
    before = children()
    ours = batches(encode(tmp_path))
    list(ours.in_order(4, workers=2))
    assert children() == before
    left = ours.shuffled(4, seed=0, epoch=0, workers=2)
    next(left)
    assert len(children() - before) == 2
    left.close()  # type: ignore[attr-defined]
    assert children() == before  # zombies would be among them
    last = ours.in_order(4, workers=2)
    next(last)
    del last
    assert children() == before


TRIAL = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_prefetch import batches, children
from pipeline.data.prepared.encoded import EncodedRows
images = EncodedRows(Path({folder!r}), "images", (6, 5, 3))
passing = batches(images).shuffled(4, seed=0, epoch=0, workers=2)
next(passing)
print(*children(), flush=True)
sys.stdin.readline()
"""


@linux
def test_workers_are_gone_when_the_trial_is_killed(tmp_path: Path) -> None:
    encode(tmp_path)
    script = TRIAL.format(path=[str(Path(__file__).parent)], folder=str(tmp_path))
    trial = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert trial.stdout is not None
        workers = [int(each) for each in trial.stdout.readline().split()]
        assert len(workers) == 2
        trial.send_signal(signal.SIGKILL)
        trial.wait()
        until = time.monotonic() + 3  # torch's own watch looks every 5 seconds
        while any(map(_lives, workers)) and time.monotonic() < until:
            time.sleep(0.02)
        assert not any(map(_lives, workers))
    finally:
        trial.kill()
        trial.communicate()


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux
def test_small_shared_memory_gets_no_more_workers_than_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that takes more of it than there is dies of SIGBUS; Docker gives 64 MB."""
    images = encode(tmp_path)
    rows = [np.arange(start, start + 4) for start in range(0, COUNT, 4)]
    of_a_worker = (prefetch.AHEAD + 1) * 4 * 6 * 5 * 3
    for free, expected in ((0, 0), (of_a_worker - 1, 0), (2 * of_a_worker, 2), (9 * of_a_worker, 3)):
        monkeypatch.setattr(prefetch.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        before, found = children(), []
        passed = prefetch.prefetch_batches(images, rows, workers=3)
        found.append(next(passed))
        assert len(children() - before) == expected
        found.extend(passed)
        np.testing.assert_array_equal(np.concatenate(found), decode_rows(images, np.arange(COUNT)))


# Ahead of a GPU.


class Numbers:
    """Counts from 0, and records who makes each and whether it was closed."""

    def __init__(self, count: int = 10**9, error_at: int | None = None) -> None:
        self.made: list[int] = []
        self.threads: list[str] = []
        self.closed = False
        self._count, self._error_at = count, error_at

    def __call__(self) -> Generator[int, None, None]:
        try:
            for number in range(self._count):
                if number == self._error_at:
                    raise UserError("damaged")
                self.made.append(number)
                self.threads.append(threading.current_thread().name)
                yield number
        finally:
            self.closed = True


def ahead_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "batches ahead"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_thread_ahead_changes_nothing_and_makes_all_but_the_first_item(count: int) -> None:
    numbers = Numbers(count)
    assert list(run_ahead(numbers())) == list(range(count))
    assert numbers.threads == [threading.current_thread().name][:count] + ["batches ahead"] * (count - 1)
    assert numbers.closed
    assert not ahead_threads()


def test_thread_ahead_makes_what_it_may_while_nobody_asks_and_no_more() -> None:
    numbers = Numbers()
    items = run_ahead(numbers(), 2)
    assert [next(items), next(items)] == [0, 1]
    deadline = time.monotonic() + 30
    while len(numbers.made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    # Two are taken, two wait, and one is in the thread's hands.
    assert numbers.made == [0, 1, 2, 3, 4]
    items.close()
    assert numbers.closed
    assert not ahead_threads()


@pytest.mark.parametrize("error_at", [0, 1, 4])
def test_error_of_the_thread_ahead_comes_in_its_place(error_at: int) -> None:
    numbers = Numbers(error_at=error_at)
    items = run_ahead(numbers())
    assert list(islice(items, error_at)) == list(range(error_at))
    with pytest.raises(UserError, match="damaged"):
        next(items)
    assert numbers.closed
    assert not ahead_threads()


def test_batches_for_a_gpu_are_sent_beside_its_work_and_waited_for_by_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here: stand-ins record what is asked of torch, and by which queue."""
    said: list[str] = []
    current = SimpleNamespace(wait_event=lambda event: said.append(f"wait for {event}"))

    class Queue:
        def __init__(self, _: torch.device) -> None:
            said.append("queue")

        def __enter__(self) -> None:
            said.append("in")

        def __exit__(self, *_: object) -> None:
            said.append("out")

        def record_event(self) -> str:
            said.append("event")
            return "event"

    class Sent(torch.Tensor):
        def record_stream(self, stream: object) -> None:
            assert stream is current
            said.append("kept for this queue")

    def send(array: Any, _: torch.device) -> torch.Tensor:
        said.append("send")
        return torch.from_numpy(array).as_subclass(Sent)

    monkeypatch.setattr(torch.cuda, "Stream", Queue)
    monkeypatch.setattr(torch.cuda, "stream", lambda queue: queue)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current)
    monkeypatch.setattr("pipeline.data.batches.image_store.send", send)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    asked: list[int] = []

    def prefetch_batches(images: Any, batches: Any, *, workers: int) -> Generator[Any, None, None]:
        asked.append(workers)
        yield from prefetch.prefetch_batches(images, batches)

    monkeypatch.setattr("pipeline.data.batches.image_store.prefetch_batches", prefetch_batches)
    images = encode(tmp_path)
    store = ImageStore(images, np.arange(1, COUNT), torch.device("cuda"))
    places = [np.array([3, 1]), np.array([7])]
    found = []
    for batch, source in zip(places, store.read(places), strict=True):
        found.append(store.on_device(batch, source).as_subclass(torch.Tensor).numpy())
    np.testing.assert_array_equal(found[0], images[[4, 2]])
    np.testing.assert_array_equal(found[1], images[[8]])
    assert said[:7] == ["queue", "in", "send", "event", "out", "wait for event", "kept for this queue"]
    assert sorted(said[7:]) == sorted(said[1:7])
    # A process for each core but one decodes, unless the recipe says how many.
    assert asked == [3]
    # What the host augments stays on the host.
    said.clear()
    kept = [pixels[rows] for pixels, rows in map(on_host, store.read(places, workers=7, upload=False))]
    assert asked == [3, 7]
    np.testing.assert_array_equal(kept[0], images[[4, 2]])
    assert said == []
