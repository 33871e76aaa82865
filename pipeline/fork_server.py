"""Fork server: stages begin as forks of one process that has imported everything, in place of importing it anew.

`sar-search repro` starts such a process beside DVC. A stage that DVC starts (`python -m pipeline.stages.NAME`) asks it
for a fork of itself, which runs the stage with the caller's files, folder, environment and attitude to interruptions.
The caller passes signals on and ends as the copy did, and when the caller dies, so does the copy. Where there is no
fork server, or it is of other code by now, the stage imports and runs by itself.

The fork server computes nothing, so that its copies have no threads to miss. It ends with the process that made it, or
with the stage that then still runs.
"""

import atexit
import gc
import importlib
import io
import json
import os
import select
import shutil
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from pipeline.compute.temp_dirs import short_folder
from pipeline.provenance.code_hash import source_files

Message = Mapping[str, Any]
"""A line on the socket: what is to be run, and what came of it."""

ADDRESS = "SAR_SEARCH_FORK_SERVER"
"""Environment variable with the fork server's socket."""

PACKAGE = "pipeline.stages"
STAGES = ("prepare", "split", "search", "retrain", "evaluate", "report", "register")

PATIENCE_S = 20.0
"""After which a stage no longer waits to be copied, and does its imports itself."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def fork_server() -> Iterator[None]:
    """Inside, stages begin as copies of a process made here. Imports all stages.

    To be entered before anything is computed, since threads do not survive a fork. Does nothing but on Linux.
    """
    if sys.platform != "linux":
        yield
        return
    code = source_state()
    for stage in STAGES:
        importlib.import_module(f"{PACKAGE}.{stage}.__main__")
    gc.freeze()  # so that collecting in a copy touches, and thereby copies, less
    with short_folder() as folder:
        with socket.socket(socket.AF_UNIX) as server:
            path = str(folder / "server")
            server.bind(path)
            server.listen()
            mine, theirs = socket.socketpair()
            sys.stdout.flush()
            sys.stderr.flush()
            if _fork() == 0:
                mine.close()
                _serve(server, theirs, code)
        gc.unfreeze()
        theirs.close()
        os.environ[ADDRESS] = path
        try:
            with mine:  # whose end the fork server notices, were it by SIGKILL
                yield
        finally:
            os.environ.pop(ADDRESS, None)


def delegate_to_server() -> None:
    """Run the stage that this process was started for in a copy of the fork server, and end as it does.

    Returns where that cannot be: there is no fork server, or it is of other code.
    """
    path, words = os.environ.get(ADDRESS), sys.orig_argv
    module = next((word for word in words if word.removeprefix(f"{PACKAGE}.") in STAGES), None)
    if not path or module is None:
        return
    request = {
        "stage": module.removeprefix(f"{PACKAGE}."),
        "code": source_state(),
        "argv": words[words.index(module) :],
        "path": sys.path,
        "folder": os.getcwd(),
        "environment": {name: value for name, value in os.environ.items() if name != ADDRESS},
        "uninterruptible": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(path)
        text = json.dumps(request).encode()
        socket.send_fds(connection, [len(text).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(text)
        answer = _read(connection)
    except OSError:
        return
    if answer is not None and "pid" in answer:
        connection.settimeout(None)
        _wait_for_fork(answer["pid"], connection)


def source_state() -> list[list[Any]]:
    """What tells this package's files from those of another time: path, size and time of change of each.

    No hashes of them: those take half as long again, at the start of every stage.
    """
    found = ((path, path.stat()) for path in source_files())
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]


def _wait_for_fork(pid: int, connection: socket.socket) -> NoReturn:
    """Be to whoever watches this process what the copy is."""

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def stop(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGCONT)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    signal.signal(signal.SIGTSTP, stop)
    status = (_read(connection) or {"status": -signal.SIGKILL})["status"]
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def _serve(server: socket.socket, parent: socket.socket, code: object) -> NoReturn:
    """The fork server: answer one stage after the other, until the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(Exception):
        while True:
            ready, _, _ = select.select([server, parent], [], [])
            if parent in ready:
                break
            connection, _ = server.accept()
            with connection, suppress(OSError, ValueError):
                connection.settimeout(PATIENCE_S)
                _answer(connection, server, parent, code)
    shutil.rmtree(os.path.dirname(server.getsockname()), ignore_errors=True)  # a parent that was killed has not
    os._exit(0)


def _answer(connection: socket.socket, server: socket.socket, parent: socket.socket, code: object) -> None:
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    try:
        request = json.loads(_exactly(connection, int.from_bytes(size, "big")))
        pid = _fork() if request["code"] == code else None
        if pid == 0:
            server.close()
            parent.close()
            _run_as_fork(request, files, connection)
    finally:
        for file in files:  # or whoever reads what the stage writes would wait for this process too
            os.close(file)
    if pid is None:
        _write(connection, {})
        return
    _write(connection, {"pid": pid})
    _, status = os.waitpid(pid, 0)
    _write(connection, {"status": os.waitstatus_to_exitcode(status)})


def _fork() -> int:
    with warnings.catch_warnings():
        # Python's, of forks beside threads: libraries have begun some, but none that a stage shares a lock with.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        return os.fork()


def _run_as_fork(request: Message, files: list[int], connection: socket.socket) -> NoReturn:
    """The copy: run the stage as if it had been started by itself, and end the process."""
    status = 1
    try:
        # A group of its own: what the terminal sends to the caller's reaches this process once, through the caller.
        os.setpgid(0, 0)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.stdout = io.TextIOWrapper(
            os.fdopen(1, "wb", closefd=False), sys.stdout.encoding, line_buffering=os.isatty(1)
        )
        sys.stderr = io.TextIOWrapper(
            os.fdopen(2, "wb", closefd=False), sys.stderr.encoding, "backslashreplace", None, True
        )
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv, sys.path[:] = list(request["argv"]), request["path"]
        signal.signal(signal.SIGINT, signal.SIG_IGN if request["uninterruptible"] else signal.default_int_handler)
        threading.Thread(target=_end_with_caller, args=(connection,), daemon=True).start()
        status = _run(request["stage"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)


def _run(stage: str) -> int:
    from pipeline.entry import run_stage

    try:
        run_stage(stage, importlib.import_module(f"{PACKAGE}.{stage}.__main__").main)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return 0


def _end_with_caller(connection: socket.socket) -> None:
    connection.settimeout(None)
    with suppress(OSError):
        connection.recv(1)  # which says nothing more, so this returns when it has ended
    os.kill(os.getpid(), signal.SIGKILL)


def _write(connection: socket.socket, content: Message) -> None:
    connection.sendall(json.dumps(content).encode() + b"\n")


def _read(connection: socket.socket) -> Message | None:
    """The next line; None at the end."""
    text = b""
    while not text.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            return None
        text += piece
    content: Message = json.loads(text)
    return content


def _exactly(connection: socket.socket, size: int) -> bytes:
    text = b""
    while len(text) < size:
        piece = connection.recv(size - len(text))
        if not piece:
            raise ValueError("the caller has ended")
        text += piece
    return text
