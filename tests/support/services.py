"""PostgreSQL and an S3 store on loopback, for tests of what a team's tracking server stands on."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from mlflow_server import LoopbackServer, MlflowServer, free_port

POSTGRES_PASSWORD = "only-for-tests"
ADMIN, PASSWORD = "admin", "twelve letters"
AUTHENTICATION = "mlflow.server.auth:authenticate_request_basic_auth"
BUCKET = "runs"
S3_KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, None where it is not installed. Debian keeps it out of PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    for folder in [*reversed(debian), *map(Path, os.environ["PATH"].split(os.pathsep))]:
        if all((folder / program).is_file() for program in ("initdb", "postgres")):
            return folder
    return None


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """A PostgreSQL server with a password on a new, empty database; gives its address without a database's name."""
    folder = Path(tempfile.mkdtemp(prefix="sar-postgres-"))
    user = _ordinary_user()
    rights: dict[str, Any] = {"user": user, "cwd": "/", "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
    process = None
    try:
        (folder / "password").write_text(POSTGRES_PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        create = [programs / "initdb", "--pgdata", folder / "data", "--username", "mlflow", "--no-sync"]
        create += ["--auth", "scram-sha-256", "--pwfile", folder / "password", "--encoding", "UTF8"]
        subprocess.run(create, check=True, capture_output=True, timeout=120, **rights)
        port = free_port()
        serve = [programs / "postgres", "-D", folder / "data", "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
        serve += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(serve, stdout=log, stderr=log, **rights)
        address = f"postgresql://mlflow:{POSTGRES_PASSWORD}@127.0.0.1:{port}"
        _await_postgres(address, process, folder / "log")
        yield address
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def create_database(address: str, name: str) -> str:
    """Make a database in the server at `address`; returns its address for SQLAlchemy."""
    with _connected(address) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    # Which driver a bare postgresql:// means depends on SQLAlchemy's version.
    return f"{address.replace('://', '+psycopg2://', 1)}/{name}"


def query(database: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a question to a PostgreSQL database."""
    with _connected(database.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@contextmanager
def s3_store(folder: Path, bucket: str, host: str = "127.0.0.1") -> Iterator[str]:
    """moto's server with an empty bucket; gives its address."""
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", host, "-p"]
    options = {"health": "/moto-api/data.json", "host": host}
    with LoopbackServer("s3", folder, lambda port: [*command, str(port)], **options) as server:
        with urlopen(Request(f"{server.uri}/{bucket}", method="PUT"), timeout=10):
            pass
        yield server.uri


@dataclass(frozen=True)
class TeamServer:
    """A team's MLflow server: PostgreSQL behind it, artifacts in S3, basic authentication, one name that it goes by.

    database, s3: the addresses behind it. Reading is allowed to everybody whom it knows.
    """

    server: MlflowServer
    database: str
    s3: str

    @property
    def uri(self) -> str:
        return self.server.uri

    def ask(self, path: str, body: dict[str, Any]) -> None:
        """POST to MLflow's API as the administrator."""
        proof = b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {proof}"}
        with urlopen(Request(self.uri + path, json.dumps(body).encode(), headers), timeout=30):
            pass

    def add_user(self, name: str) -> None:
        """Make an account with `PASSWORD`."""
        self.ask("/api/2.0/mlflow/users/create", {"username": name, "password": PASSWORD})

    def grant(self, name: str, kind: str, resource: str, permission: str) -> None:
        """Give an account a permission on an experiment (by its id) or a registered_model (by its name)."""
        body = {"username": name, "resource_type": kind, "resource_id": resource, "permission": permission}
        self.ask("/api/3.0/mlflow/users/permissions/grant", body)

    def revoke(self, name: str, kind: str, resource: str) -> None:
        """Take back what was granted; reading stays."""
        body = {"username": name, "resource_type": kind, "resource_id": resource}
        self.ask("/api/3.0/mlflow/users/permissions/revoke", body)


@contextmanager
def team_server(folder: Path, programs: Path) -> Iterator[TeamServer]:
    """A team's server as docs/teams.md sets it up, with the accounts of an administrator, of ann and of bob."""
    with postgres(programs) as address, s3_store(folder, BUCKET) as s3:
        tracking, users = (create_database(address, name) for name in ("tracking", "users"))
        settings = {"default_permission": "READ", "database_uri": users, "admin_username": ADMIN}
        settings |= {"admin_password": PASSWORD, "authorization_function": AUTHENTICATION}
        settings |= {
            "auth_cache_ttl_seconds": "60"
        }  # without it every call hashes the password, which is slow by design
        ini = folder / "auth.ini"
        ini.write_text("[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        environment = S3_KEYS | {"MLFLOW_S3_ENDPOINT_URL": s3, "MLFLOW_AUTH_CONFIG_PATH": str(ini)}
        environment |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "only-for-tests"}
        options = ["--app-name", "basic-auth", "--allowed-hosts", "127.0.0.1:*"]
        with MlflowServer(
            folder, database=tracking, artifacts=f"s3://{BUCKET}/mlflow", options=options, environment=environment
        ) as server:
            team = TeamServer(server, tracking, s3)
            for name in ("ann", "bob"):
                team.add_user(name)
            yield team


def _ordinary_user() -> str | None:
    """Whom PostgreSQL runs as where root runs the tests, which it refuses; None where somebody else does."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    import psycopg2

    target = address if address.count("/") > 2 else f"{address}/postgres"
    connection = psycopg2.connect(target, connect_timeout=5)
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def _await_postgres(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            with _connected(address):
                return
        except psycopg2.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
