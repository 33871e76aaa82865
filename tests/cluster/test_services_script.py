"""What docker/services.sh and docker/serve_mlflow.py say of what is wrong, and which packages docker/install.sh takes."""

import importlib.util
import re
import shutil
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from support.services import postgres, postgres_programs

ROOT = Path(__file__).parents[2]


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("serve_mlflow", ROOT / "docker" / "serve_mlflow.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SERVE = _module()


# ---- services.sh: with programs that only say what an engine would


SYSTEMS = {"bash", "cut", "df", "dirname", "env", "grep", "head", "od", "sed", "sleep", "sort", "stat", "tail", "tr"}
"""What the script takes of the system."""


def _say(folder: Path, *arguments: str, **programs: str) -> "subprocess.CompletedProcess[str]":
    """Run the script of a copy of docker/ where these programs are, each a shell script, and no others but the system's."""
    tools = Path(tempfile.mkdtemp(dir=folder))
    scripts = {name.replace("_", "-"): content for name, content in programs.items()}
    for name in sorted(SYSTEMS - set(scripts)):  # a script is never written where a link to the system's program is
        (tools / name).symlink_to(str(shutil.which(name)))
    for name, content in scripts.items():
        with (tools / name).open("x") as file:
            file.write(f"#!/bin/bash\n{content}\n")
        (tools / name).chmod(0o755)
    place = folder / "checkout" / "docker"
    place.mkdir(parents=True, exist_ok=True)
    (place / "services.sh").write_text((ROOT / "docker" / "services.sh").read_text())
    command = ["/bin/bash", str(place / "services.sh"), *arguments]
    return subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True, timeout=60)


DOCKER = 'case "$*" in "compose version") echo "Docker Compose version v{version}" ;; info*) {info} ;; esac'


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, "no container engine is here: install Docker with Compose 2.24 or newer, or podman with podman-compose"),
        ({"podman": "exit 0"}, "podman is here without podman-compose"),
        ({"docker": "exit 1"}, "docker is here without Compose: install its plugin"),
        (
            {"docker": "exit 1", "docker_compose": "echo 'docker-compose version 1.29.2, build unknown'"},
            "docker-compose is 1.29.2; docker/compose.yaml needs 2.24.0 or newer",
        ),
        ({"docker": DOCKER.format(version="2.5.1", info="exit 0")}, "docker compose is 2.5.1; docker/compose.yaml needs"),
        ({"docker": DOCKER.format(version="2.40.3", info="exit 1")}, "docker is installed but does not answer: start its"),
        (
            {"podman": "exit 0", "podman_compose": "echo 'podman-compose version: 1.0.3'"},
            "podman-compose is 1.0.3; docker/compose.yaml needs 1.3.0 or newer",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_engine_is_said_in_a_sentence(
    tmp_path: Path, programs: dict[str, str], said: str
) -> None:
    for command in ("up", "repro", "status", "down"):
        done = _say(tmp_path, command, **programs)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {said}"), done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "checkout/docker/.env").exists()


def test_too_little_room_and_too_odd_a_number_are_refused(tmp_path: Path) -> None:
    info = 'exit 0 ;; "image inspect"*) exit 1'
    programs = {"docker": DOCKER.format(version="2.40.3", info=info), "df": "echo ' 7G'"}
    done = _say(tmp_path, "up", **programs)
    assert done.returncode == 2
    assert "7 GB free; the image takes 8 GB" in done.stderr
    assert "several is no number of workers" in _say(tmp_path, "up", "several").stderr
    assert _say(tmp_path).returncode == 2


def test_secrets_are_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    """`up` as far as the engine: what it is asked to do, and with which secrets beside it."""
    script = DOCKER.format(
        version="2.40.3", info="exit 0 ;; *print_nodes*) printf 'a: 2 CPUs\\nb: 2 CPUs\\nc: 2 CPUs\\n'"
    )
    asked = tmp_path / "asked"
    programs = {"docker": f'echo "$*" >> {asked}\n{script}'}
    assert _say(tmp_path, "up", **programs).returncode == 0
    env = tmp_path / "checkout/docker/.env"
    assert env.stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=", 1) for line in env.read_text().splitlines())
    assert set(values) == {"POSTGRES_PASSWORD", "S3_USER", "S3_PASSWORD", "RAY_AUTH_TOKEN", "RUN_AS"}
    assert all(re.fullmatch("[0-9a-f]{20,48}", values[name]) for name in set(values) - {"RUN_AS"})
    assert len(set(values.values())) == len(values)
    assert values["RUN_AS"] == f"{tmp_path.stat().st_uid}:{tmp_path.stat().st_gid}"
    before = env.read_text()
    assert _say(tmp_path, "up", "2", **programs).returncode == 0
    assert env.read_text() == before
    assert asked.read_text().count("compose -f docker/compose.yaml up --build -d --scale worker=2\n") == 2
    assert not any(value in asked.read_text() for name, value in values.items() if name != "RUN_AS")


# ---- serve_mlflow.py


def test_password_may_have_any_sign() -> None:
    nasty = "a/b:c@d#e?f%g h'i\"\\é"
    address = SERVE.database_address(nasty, "db")
    parts = urlsplit(address)
    assert (parts.scheme, parts.hostname, parts.path) == ("postgresql+psycopg2", "db", "/mlflow")
    assert unquote(parts.password or "") == nasty


@contextmanager
def _store(status: int, code: str, from_method: str = "GET") -> Iterator[str]:
    """An S3 store that answers a method, and what comes after, with an error."""

    class Answer(BaseHTTPRequestHandler):
        def do(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            wrong = self.command == from_method
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>" if wrong else listed
            self.send_response(status if wrong else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_PUT = do_DELETE = do  # noqa: N815 - names that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    listed = "<ListAllMyBucketsResult><Buckets><Bucket><Name>mlflow</Name></Bucket></Buckets></ListAllMyBucketsResult>"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "wrong")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.usefixtures("_keys")
def test_store_with_other_keys_a_full_one_and_none_are_told_apart() -> None:
    with _store(403, "SignatureDoesNotMatch") as address, pytest.raises(SERVE.NeverSo, match="does not take S3_USER"):
        SERVE.await_store(address)
    with (
        _store(507, "QuotaExceeded", "PUT") as address,
        pytest.raises(SERVE.NeverSo, match="is the disk of the volume"),
    ):
        SERVE.await_store(address)
    with _store(503, "SlowDown") as address, pytest.raises(SERVE.NotYet, match="answers SlowDown"):
        SERVE.await_store(address)
    with pytest.raises(SERVE.NotYet, match="does not answer"):
        SERVE.await_store("http://127.0.0.1:9")
    with _store(403, "never", "POST") as address:
        SERVE.await_store(address)


def test_what_is_not_there_yet_is_asked_again_for_a_while() -> None:
    asked: list[int] = []

    def later() -> None:
        asked.append(1)
        if len(asked) < 3:
            raise SERVE.NotYet("not there")

    SERVE.settle(later, pause=0.0)
    assert len(asked) == 3

    def never() -> None:
        raise SERVE.NotYet("not there")

    with pytest.raises(SERVE.NeverSo, match=r"not there\. Its own words: "):
        SERVE.settle(never, patience=0.0, pause=0.0)


@pytest.mark.services
def test_wrong_password_of_the_database_is_told_at_once() -> None:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    with postgres(programs) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPORT", str(urlsplit(address).port))
        with pytest.raises(SERVE.NeverSo, match="does not take POSTGRES_PASSWORD"):
            SERVE.await_database("another", "127.0.0.1")
        patch.setenv("PGPORT", "9")
        with pytest.raises(SERVE.NotYet, match="PostgreSQL does not answer"):
            SERVE.await_database("another", "127.0.0.1")


# ---- install.sh


def test_tools_of_development_that_the_image_leaves_out_are_the_extra_of_that_name() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    names = {re.split(r"[\[<>=]", each)[0] for each in extra} - {"sar-search"}
    (listed,) = re.findall(r'^DEV="([^"]*)"', (ROOT / "docker" / "install.sh").read_text(), re.M)
    assert set(listed.split()) == names


def _packages(lock: str) -> dict[str, set[str]]:
    """Each package of a lock, and what it is there for, by its comments."""
    parents: dict[str, set[str]] = {}
    for line in lock.splitlines():
        if named := re.match(r"([A-Za-z0-9.-]+)(\[[^]]*\])?==", line):
            parents[name := named[1]] = set()
        elif (said := re.match(r"\s+#\s+(?:via\s+)?([A-Za-z0-9.-]+)", line)) and said[1] != "via":
            parents[name].add(said[1])
    return parents


def test_image_has_the_lock_less_what_only_development_needs() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    (listed,) = re.findall(r'^DEV="([^"]*)"', (ROOT / "docker" / "install.sh").read_text(), re.M)
    parents, dev, wanted = _packages(lock), set(listed.split()), {"sar-search"}
    while more := {name for name, above in parents.items() if above & wanted and name not in dev} - wanted:
        wanted |= more
    printed = subprocess.run(
        ["bash", "docker/install.sh", "list"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(_packages(printed)) == wanted - {"sar-search"}
    assert {"torch", "ray", "boto3", "psycopg2-binary"} <= wanted
    assert printed.count("--hash=") > len(wanted)
    lines = set(lock.splitlines())
    assert all(line in lines for line in printed.splitlines())
