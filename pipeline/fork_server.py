"""Fork server for DVC stages, which saves each stage the import of its packages.

`sar-search repro` starts one process that has imported all stages. A stage that DVC starts
(`python -m pipeline.stages.NAME`) asks this server for a fork, which runs the stage. The fork inherits the caller's
standard streams, working directory, environment and handling of SIGINT. The caller forwards signals to the fork and
ends with its status. If the caller dies, the fork is killed. If there is no server, or its code has changed since
it started, the stage imports its packages and runs by itself.

The server computes nothing, so no thread exists that a fork would lack. It ends with the process that started it,
or, if a stage is running then, with this stage.
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
"""A line on the socket: a request to run a stage, or the answer."""

ADDRESS = "SAR_SEARCH_FORK_SERVER"
"""Environment variable with the path of the server's socket."""

PACKAGE = "pipeline.stages"
STAGES = ("prepare", "split", "search", "retrain", "evaluate", "report", "register")

PATIENCE_S = 20.0
"""Seconds after which a stage no longer waits for a fork and imports its packages itself."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def fork_server() -> Iterator[None]:
    """Starts a fork server that runs within the `with` block, and imports all stages for it.

    Enter it before anything is computed, because threads do not survive a fork. On other systems than Linux it does
    nothing.
    """
    if sys.platform != "linux":
        yield
        return
    code = source_state()
    for stage in STAGES:
        importlib.import_module(f"{PACKAGE}.{stage}.__main__")
    gc.freeze()  # garbage collection in a fork then touches, and so copies, fewer pages of memory
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
            with mine:  # the server notices when this socket closes, even by SIGKILL
                yield
        finally:
            os.environ.pop(ADDRESS, None)


def delegate_to_server() -> None:
    """Runs this process's stage in a fork of the server, and ends the process with the fork's status.

    Returns without running the stage if there is no fork server, or if its code has changed.
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
    """Returns path, size and time of change of each file of this package, which identify its version.

    Hashes would increase the time of this check by half, at the start of every stage.
    """
    found = ((path, path.stat()) for path in source_files())
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]


def _wait_for_fork(pid: int, connection: socket.socket) -> NoReturn:
    """Forwards signals to the fork, and ends this process with its status.

    Args:
        pid: Process id of the fork.
        connection: Socket on which the server sends the status.
    """

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
    """Runs the fork server: answers one stage after the other, until its parent has ended.

    Args:
        server: Socket on which stages connect.
        parent: Socket that closes when the parent ends.
        code: State of the sources at the start (`source_state`).
    """
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
    # A parent that was killed has not removed the folder of the socket.
    shutil.rmtree(os.path.dirname(server.getsockname()), ignore_errors=True)
    os._exit(0)


def _answer(connection: socket.socket, server: socket.socket, parent: socket.socket, code: object) -> None:
    """Answers one request: forks, waits for the fork's end, and sends its status.

    Args:
        connection: Socket of the stage.
        server: Socket on which stages connect, which the fork closes.
        parent: Socket to the parent, which the fork closes.
        code: State of the sources at the start (`source_state`).
    """
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    try:
        request = json.loads(_exactly(connection, int.from_bytes(size, "big")))
        pid = _fork() if request["code"] == code else None
        if pid == 0:
            server.close()
            parent.close()
            _run_as_fork(request, files, connection)
    finally:
        for file in files:  # a reader of the stage's output would otherwise wait for this process too
            os.close(file)
    if pid is None:
        _write(connection, {})
        return
    _write(connection, {"pid": pid})
    _, status = os.waitpid(pid, 0)
    _write(connection, {"status": os.waitstatus_to_exitcode(status)})


def _fork() -> int:
    with warnings.catch_warnings():
        # Python warns of forks beside threads. Libraries have started some, but stages share no lock with them.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        return os.fork()


def _run_as_fork(request: Message, files: list[int], connection: socket.socket) -> NoReturn:
    """Runs the stage in the fork as if it had been started by itself, and ends the process.

    Args:
        request: Request of the stage.
        files: File descriptors of the caller's standard input, output and error.
        connection: Socket of the caller, which closes when the caller ends.
    """
    status = 1
    try:
        # In a process group of its own, the fork receives a signal of the terminal once, forwarded by the caller.
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
        connection.recv(1)  # the caller sends nothing more, so this returns when the caller has ended
    os.kill(os.getpid(), signal.SIGKILL)


def _write(connection: socket.socket, content: Message) -> None:
    connection.sendall(json.dumps(content).encode() + b"\n")


def _read(connection: socket.socket) -> Message | None:
    """Returns the next message; None if the connection has ended."""
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
