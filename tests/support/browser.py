"""Headless Chromium, driven by its own protocol through a pipe: no port, no driver, no package."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

WAIT_S = 90.0


def chromium() -> str | None:
    """The program, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One page. folder: for Chromium's profile and log. size: of the window, in pixels."""

    def __init__(self, program: str, folder: Path, *, size: tuple[int, int] = (1440, 900)) -> None:
        # Chromium reads commands from its descriptor 3 and answers on 4; ours must be none of these.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for pair in (os.pipe(), os.pipe()) for end in _given_up(pair)]
        reads, self._to, self._from, writes = ends
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        command += ["--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{reads} 4>&{writes}', "bash", *command],
                pass_fds=(reads, writes),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(reads)
        os.close(writes)
        self._last, self._unread, self._session = 0, b"", None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, url: str) -> None:
        """Load a page, from nothing also where only the part behind # differs."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait_for(self, *words: str) -> str:
        """Wait until the page shows all of the words; returns what it shows."""
        seen = self.wait_until(lambda: all(word in self.text() for word in words), f"the page to show {words}")
        assert seen
        return self.text()

    def wait_until(self, true: Any, what: str) -> Any:
        """Ask until the answer is true."""
        deadline = time.monotonic() + WAIT_S
        while not (answer := true()):
            assert time.monotonic() < deadline, f"waited for {what}; it shows:\n{self.text()[:3000]}"
            time.sleep(0.2)
        return answer

    def screenshot(self, path: Path) -> None:
        """Write what is in the window as a PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End it, with every process that it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, **params: Any) -> Any:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:  # the rest are events
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], WAIT_S)
            part = os.read(self._from, 1 << 20) if ready else b""
            assert part, "Chromium does not answer"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


def _given_up(pair: tuple[int, int]) -> Any:
    """The two ends, each closed after it was used."""
    for end in pair:
        yield end
        os.close(end)
