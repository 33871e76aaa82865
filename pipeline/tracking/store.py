"""Tracking store of MLflow, found and checked before any work starts, and its experiments.

Two kinds of store are supported: a database file on this machine (sqlite:///...) and an MLflow server (http,
https). The user's identity comes from MLflow's own environment variables, never from params.yaml. Credentials
never appear in a message, a log or a repr.
"""

import getpass
import logging
import os
import re
import shlex
import sqlite3
import ssl
import sys
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass, url2pathname

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import read_mlflow_creds
from requests import RequestException

from pipeline.errors import UserError, format_value
from pipeline.files.locks import locked
from pipeline.files.paths import SQLITE, database_path, database_uri, expand_home
from pipeline.tracking.moved_store import ARTIFACTS, settle_addresses

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag with which the UI opens an experiment's training runs rather than its pages for language models."""

T = TypeVar("T")
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
HEALTHY = b"OK"  # the answer of MLflow's /health
PROXIED_FILES = "/mlflow-artifacts/"
"""Part of the address of every request for a file that the server itself reads or writes."""
NO_ANSWER = {
    "Unable to connect to proxy": "the proxy that the environment names does not answer",
    "Connection refused": "connection refused, nothing listens there",
    "Failed to resolve|name resolution|Name or service not known|nodename nor": "there is no address for its name",
    "No route to host|Network is unreachable": "no route leads to it",
    "timed out": "it did not answer in time",
    "RemoteDisconnected|Connection aborted|Connection reset": "it broke off the connection",
}
"""Reasons why a server was not reached, by what the errors of requests, urllib and sockets say of them."""
SCHEMA_WAIT_S = 180.0
"""Longest wait for another process that creates the schema: it takes seconds on a laptop, a minute on a loaded node."""


@dataclass(frozen=True)
class Store:
    """A tracking store that is also the model registry.

    Attributes:
        uri: the address, with credentials if it has any.
        root: the checkout.
    """

    uri: str = field(repr=False)
    root: Path

    @property
    def database(self) -> Path | None:
        """The database file of a sqlite store; None for a server."""
        return Path(database_path(self.uri)) if self.uri.startswith(SQLITE) else None

    @property
    def user(self) -> str | None:
        """The user name that a server receives, from the address or MLflow's own variables; None: no user name."""
        named = urlsplit(self.uri).username
        return unquote(named) if named else read_mlflow_creds().username

    @property
    def has_password(self) -> bool:
        """True if a server receives a password, from the address or MLflow's own variables."""
        return bool(urlsplit(self.uri).password or read_mlflow_creds().password)

    @property
    def shown(self) -> str:
        """The address without credentials, for display."""
        parts = urlsplit(self.uri)
        if self.database:
            return f"{SQLITE}{self.database}"
        return parts._replace(netloc=_host(parts), query="", fragment="").geturl()

    def scrubbed(self, text: object) -> str:
        """Returns a text with all credentials of this store removed."""
        userinfo, at, _ = urlsplit(self.uri).netloc.rpartition("@")
        if not at:
            return str(text)
        shown = str(text).replace(userinfo + "@", "")
        password = userinfo.partition(":")[2]
        for secret in (userinfo, password, unquote(password)):
            # Replacing a word of three letters everywhere would make the text unreadable and hide little.
            shown = shown.replace(secret, "***") if len(secret) > 3 else shown
        return shown

    def reason(self, error: object) -> str:
        """Returns the first line of an error, without credentials and at most 300 characters long."""
        lines = self.scrubbed(error).strip().splitlines()
        return lines[0][:300] if lines else type(error).__name__


def resolve_store(uri: str | None, root: Path) -> Store:
    """Returns the store of an address.

    Args:
        uri: `tracking.uri`; None: MLFLOW_TRACKING_URI or, without it, the file mlflow.db in `root`. A
            relative sqlite path is relative to `root`, whatever the working directory is.
        root: the checkout.

    Raises:
        UserError: an address of another kind, of a folder or with options, or a parameter that holds a password.
    """
    root = root.resolve()
    given = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    where = "tracking.uri" if uri else "MLFLOW_TRACKING_URI"
    if given.startswith(SQLITE):
        path = database_path(given)
        if path in ("", ":memory:"):
            raise UserError(f"{where}: a database in memory forgets the search; give a file, as in {SQLITE}mlflow.db")
        if "?" in given:
            raise UserError(
                f"{where}: {format_value(given)}: a database's address takes no options; leave out the question mark "
                "and what follows, or write %3F for a question mark in the path"
            )
        if path.startswith("/~"):
            raise UserError(
                f"{where}: {format_value(given)}: means a folder {path.split('/')[1]!r} in the root folder; for a file "
                f"in a home folder, write {SQLITE}{path[1:]}"
            )
        try:
            file = root / expand_home(path)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        if path.endswith("/") or os.path.isdir(file):
            raise UserError(f"{where}: {file} is a folder; give a file in it, as {database_uri(file / 'mlflow.db')}")
        return Store(database_uri(file), root)
    store = Store(given.rstrip("/"), root)
    try:
        parts = urlsplit(given)
    except ValueError as error:  # e.g. unclosed IPv6 brackets; the address may hold a password, so it is not shown
        raise UserError(f"{where} is no address ({error}); give {SQLITE}FILE or http(s)://HOST:PORT") from None
    if parts.scheme in ("http", "https") and parts.hostname:
        if uri and "@" in parts.netloc:
            raise UserError(
                f"{where} holds a user name or a password, and git and DVC keep params.yaml\n  make it {store.shown}, "
                f"and set {CREDENTIALS} in the environment"
            )
        return store
    if parts.scheme.partition("+")[0] == "sqlite":
        rest = given.partition("://")[2].removeprefix("/")
        raise UserError(f"{where}: {format_value(given)}: write {SQLITE}{rest or 'FILE'}")
    # A bare folder name, such as "mlruns", was valid in earlier versions of MLflow, which had file stores.
    if parts.scheme in ("", "file"):
        hint = "MLflow keeps no runs in plain folders any more"
    elif re.fullmatch(r"[^/]*:\d+(/.*)?", given):  # localhost:5000 parses as the scheme localhost
        hint = f"for an MLflow server there, write http://{given}"
    else:
        hint = (
            f"put an MLflow server in front of another database: mlflow server --backend-store-uri {parts.scheme}:..."
        )
    raise UserError(f"{where} is {store.shown!r}: give {SQLITE}FILE or http(s)://HOST:PORT\n  {hint}")


def prepare_store(store: Store, *, timeout_s: float = 10.0) -> None:
    """Checks before any work that the store can be used; creates the schema of a sqlite store.

    Processes that do this at the same time take turns, since MLflow's own migration fails if several start it.

    Args:
        store: the tracking store.
        timeout_s: seconds to wait for each of two answers.

    Raises:
        UserError: the store cannot be used; the message says why.
    """
    if store.database:
        _prepare_database(store, store.database, timeout_s)
    else:
        _prepare_server(store, timeout_s)


def client(store: Store) -> MlflowClient:
    """Returns MLflow's client for the store.

    It is configured to print less than by default, and to retry for seconds, not minutes.

    Args:
        store: the tracking store.
    """
    # MLflow's database module logs a traceback of every error that it also raises; the caller reports the error.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it logs every retry
    for chatty in ("mlflow.pyfunc", "mlflow.store.model_registry.abstract_store"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # MLflow reads these variables at every call. A value that the user has set is not changed.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # on first import, about SQLAlchemy 2.1
        if store.database:
            from mlflow.store.db import utils

            utils._make_parent_dirs_if_sqlite = _make_folder
        return MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)


def experiment_id(store: Store, name: str) -> str:
    """Returns the id of the experiment, which is created if it does not exist and restored if it was deleted.

    A sqlite store's artifacts go to `root`/mlartifacts, so that they are found from any working directory.

    Args:
        store: the tracking store.
        name: name of the experiment.

    Raises:
        UserError: MLflow refuses the name, or the folder of the experiment's artifacts is gone with its checkout.
    """
    registry = client(store)
    if store.database:
        settle_addresses(store.database, store.root)
    with as_user_error(store, f"opening the experiment {name!r}"):
        found = registry.get_experiment_by_name(name)
        if found is None:
            location = _artifact_folder(store, name).as_uri() if store.database else None
            try:
                found = registry.get_experiment(registry.create_experiment(name, location, KIND))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = registry.get_experiment_by_name(name)  # another process has just created it
                assert found is not None
        if found.lifecycle_stage == "deleted":
            registry.restore_experiment(found.experiment_id)
    require_artifacts(store, name, str(found.artifact_location))
    return str(found.experiment_id)


def require_artifacts(store: Store, name: str, location: str) -> None:
    """Checks before any work that an experiment's artifacts can be stored, as far as this machine can check it.

    Args:
        store: the tracking store.
        name: name of the experiment.
        location: address of the experiment's artifacts.

    Raises:
        UserError: a folder that is gone with its checkout (MLflow cannot change an experiment's folder),
            or an S3 store that this machine writes to directly, without boto3.
    """
    parts = urlsplit(location)
    folder = Path(url2pathname(parts.path))
    local = store.database and parts.scheme in ("", "file")
    if local and not folder.exists() and not folder.is_relative_to(store.root):
        raise UserError(
            f"the experiment {name!r} in {store.shown} keeps its artifacts in {folder}, which is gone\n"
            "  was the checkout moved? move it back, set tracking.experiment to a new name, or start a new tracking.uri"
        )
    if parts.scheme == "s3" and find_spec("boto3") is None:
        raise UserError(
            f"the experiment {name!r} in {store.shown} keeps its artifacts in {location}, which needs boto3 here\n"
            "  install it: pip install -e '.[s3]'; or have the server pass artifacts on (docs/teams.md)"
        )


@contextmanager
def as_user_error(store: Store, doing: str) -> Iterator[None]:
    """Converts MLflow's errors inside the `with` block into UserErrors that name the action and the store."""
    try:
        yield
    except _failures() as error:
        said, advice = refusal(store, error)
        raise UserError(f"{doing} failed at {store.shown}\n  {said}" + (f"\n  {advice}" if advice else "")) from None


def find_existing(call: Callable[[], T]) -> T | None:
    """Returns the answer to a call of MLflow about something that is named; None if it does not exist."""
    try:
        return call()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def refusal(store: Store, error: Exception) -> tuple[str, str]:
    """Returns the reason why a store refused a call, and advice on what to do ("" if there is none)."""
    said, code = store.reason(error), getattr(error, "error_code", "")
    if "host header" in said.lower():
        host = _host(urlsplit(store.uri))
        return f"it does not answer to the name {host}", f"start it with --allowed-hosts {host} (docs/teams.md)"
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        if store.user is None:
            return "it requires a login (status 401)", f"set {CREDENTIALS}, or MLFLOW_TRACKING_TOKEN"
        if not store.has_password:
            return f"it requires the password of {store.user!r} (status 401)", "set MLFLOW_TRACKING_PASSWORD"
        return f"it does not take the password of {store.user!r} (status 401)", f"look at {CREDENTIALS}"
    if code == "PERMISSION_DENIED":
        who = f"{store.user!r} may not do this" if store.user else "it does not allow this"
        return f"{who} (status 403)", "ask whoever runs the server for permission (docs/teams.md)"
    if not store.database and isinstance(error, MlflowException | RequestException):
        text = str(error)
        # MLflow repeats a call that is answered with such a status, and keeps only the status of the last answer.
        if status := re.search(r"too many (\d{3}) error responses|^(5\d\d) Server Error|error code (5\d\d) ", text):
            number = next(filter(None, status.groups()))
            if PROXIED_FILES in text:
                return (
                    f"it answers, but fails to store or read files (status {number})",
                    "ask whoever runs it to look at its --artifacts-destination: is the bucket there? (docs/teams.md)",
                )
            return f"it answers with an error of its own (status {number})", "ask whoever runs it to look at its log"
        if text.startswith("API request to"):  # what a server says itself may hold the same words
            return no_answer_reason(error) or said, ""
    return said, ""


def no_answer_reason(error: object) -> str:
    """Returns why a server was not reached, in plain words; "" if the error says something else."""
    return next((words for sign, words in NO_ANSWER.items() if re.search(sign, str(error))), "")


def is_unreachable(error: Exception) -> bool:
    """Returns whether the error means that an S3 store, written to directly, did not answer.

    boto3's errors are not OSErrors.
    """
    module = sys.modules.get("botocore.exceptions")
    return module is not None and isinstance(error, module.HTTPClientError)


@contextmanager
def as_global_store(store: Store) -> Iterator[None]:
    """Makes the store MLflow's global one inside the `with` block.

    MLflow looks up a version's source in the global store, whatever the client's store is.
    """
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(store.uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None restores MLflow's default


def user_name(store: Store) -> str:
    """Returns the name of the person at work, for MLflow's runs and the history of a champion.

    With a server that has accounts, it is the account, since logins such as `ubuntu` are the same on many machines.
    Otherwise it is this machine's login.

    Args:
        store: the tracking store.
    """
    if store.database is None and (account := store.user):
        return account
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _prepare_database(store: Store, path: Path, timeout_s: float) -> None:
    """Creates the schema of a sqlite store, and corrects the addresses in a database that was moved.

    Args:
        store: the tracking store.
        path: its database file.
        timeout_s: seconds to wait for another process's write lock.

    Raises:
        UserError: the file cannot be used as a store.
    """
    problem = f"the tracking store {store.shown} cannot be used"
    held = f"{problem}: another process holds {path}.lock\n  wait for it or end it, then try again"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{path}.lock"), held, wait_s=SCHEMA_WAIT_S):
            # Taking the write lock fails if the file is no database, is read-only, or is locked by another process.
            with closing(sqlite3.connect(path, timeout=timeout_s)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
            client(store).search_experiments(max_results=1)
            settle_addresses(path, store.root)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{problem}: {reason}\n  make {path.parent} a folder that you may write to, or set tracking.uri to another"
        ) from None
    except sqlite3.Error as error:
        raise UserError(
            f"{problem}: {error}\n  if it is a database, end what uses it; else move {path} away or set tracking.uri"
        ) from None
    except Exception as error:  # of MLflow, SQLAlchemy or Alembic: the schema cannot be used
        raise UserError(f"{problem}: {store.reason(error)}\n  {_advice(store, error)}") from error


def _advice(store: Store, error: Exception) -> str:
    """Returns advice on a database that MLflow cannot use."""
    if "out-of-date database schema" in str(error):
        return (
            "made by another version of MLflow: install that one or, if it is an earlier one, copy the file and run "
            f"mlflow db upgrade {shlex.quote(store.uri)}"
        )
    return f"move {store.database} away, or set tracking.uri to another file"


def _prepare_server(store: Store, timeout_s: float) -> None:
    """Checks that an MLflow server answers and accepts the user.

    Raises:
        UserError: it does not.
    """
    parts = urlsplit(store.uri)
    problem = f"the tracking server {store.shown} cannot be used"
    advice = "start it (mlflow server), or set tracking.uri or MLFLOW_TRACKING_URI to the one that runs"
    request = Request(f"{store.shown}/health")
    userinfo, at, _ = parts.netloc.rpartition("@")
    if at:  # urllib does not use credentials in an address
        request.add_header("Authorization", f"Basic {b64encode(unquote(userinfo).encode()).decode()}")
    health = b""
    try:
        with build_opener().open(request, timeout=timeout_s) as answer:  # current proxies; urlopen caches the first
            health = answer.read(len(HEALTHY))
    except HTTPError as error:
        error.close()  # it answered; the search below finds out whether it is MLflow and accepts us
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if not isinstance(reason, ssl.SSLError):  # MLflow has its own parameters for certificates
            proxy = _proxy_to(parts)
            said = no_answer_reason(reason) or store.reason(reason)
            raise UserError(f"{problem}: no answer{proxy}: {said}\n  {advice}") from None
    try:
        with short_timeouts(timeout_s):
            client(store).search_experiments(max_results=1)
    except MlflowException as error:
        said, known = refusal(store, error)
        if not known and health != HEALTHY:
            said = f"what answers there seems to be no MLflow server ({said})"
            known = "give the address and the port of an MLflow server in tracking.uri or MLFLOW_TRACKING_URI"
        raise UserError(f"{problem}: {said}{_proxy_to(parts)}\n  {known or advice}") from None


@contextmanager
def short_timeouts(timeout_s: float) -> Iterator[None]:
    """Makes MLflow try once and wait `timeout_s` seconds inside the `with` block, instead of retrying for minutes."""
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(timeout_s)))}
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _make_folder(db_uri: str) -> None:
    """Creates the folder of a database.

    It replaces MLflow's own function, which takes an encoded address literally.
    """
    if db_uri.startswith(SQLITE):
        Path(database_path(db_uri)).parent.mkdir(parents=True, exist_ok=True)


def _artifact_folder(store: Store, experiment: str) -> Path:
    """Returns the folder of an experiment's artifacts in the checkout, and creates it."""
    # Two names may have the same readable part; the hash makes their folders different.
    readable = re.sub(r"[^\w.-]+", "-", experiment).strip("-.")[:60]
    folder = store.root / ARTIFACTS / f"{readable}-{sha256(experiment.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _failures() -> tuple[type[Exception], ...]:
    """Returns the errors that a call of MLflow may raise.

    These are MLflow's own errors and, for artifacts, OSError (also of requests), ImportError for a missing
    package, and boto3's errors.
    """
    modules = [sys.modules.get(name) for name in ("botocore.exceptions", "boto3.exceptions")]
    names = ("BotoCoreError", "ClientError"), ("Boto3Error",)
    boto = [getattr(module, name) for module, here in zip(modules, names, strict=True) if module for name in here]
    return MlflowException, OSError, ImportError, *boto


def _proxy_to(parts: SplitResult) -> str:
    """Returns a phrase about the proxy through which an address is reached; "" without a proxy.

    The environment or the system names the proxy.
    """
    host = parts.hostname or ""
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme) or getproxies().get("all")
    if not proxy:
        return ""
    shown = urlsplit(proxy)._replace(netloc=_host(urlsplit(proxy))).geturl()
    return f" by way of the proxy {shown}, which the environment names; NO_PROXY={host} asks it directly"


def _host(parts: SplitResult) -> str:
    """Returns host and port of an address, without credentials."""
    return parts.netloc.rpartition("@")[2]
