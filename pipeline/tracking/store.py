"""Tracking store of MLflow, found and checked before any work starts, and its experiments.

Two kinds are taken: a database file on this machine (sqlite:///...) and an MLflow server (http, https). Who asks is
said by MLflow's own environment variables, never by params.yaml; credentials never reach a message, a log or a repr.
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
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass, url2pathname

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import read_mlflow_creds

from pipeline.errors import UserError, format_value
from pipeline.files.locks import locked
from pipeline.files.paths import SQLITE, database_path, database_uri, expand_home
from pipeline.tracking.moved_store import ARTIFACTS, settle_addresses

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Lets the UI open an experiment at its training runs rather than at its pages for language models."""

CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
SCHEMA_WAIT_S = 180.0
"""How long to wait for another process that creates the schema: seconds on a laptop, a minute on a loaded node."""


@dataclass(frozen=True)
class Store:
    """A tracking store that is also the model registry. uri: with credentials, if it has any; root: the checkout."""

    uri: str = field(repr=False)
    root: Path

    @property
    def database(self) -> Path | None:
        """The database file of a sqlite store, None for a server."""
        return Path(database_path(self.uri)) if self.uri.startswith(SQLITE) else None

    @property
    def user(self) -> str | None:
        """Whom a server is told that we are, by the address or by MLflow's own settings; None: it is not told."""
        return urlsplit(self.uri).username or read_mlflow_creds().username

    @property
    def shown(self) -> str:
        """The address without credentials, for people."""
        parts = urlsplit(self.uri)
        if self.database:
            return f"{SQLITE}{self.database}"
        return parts._replace(netloc=_host(parts), query="", fragment="").geturl()

    def scrubbed(self, text: object) -> str:
        """The text with every trace of this store's credentials taken out."""
        userinfo, at, _ = urlsplit(self.uri).netloc.rpartition("@")
        if not at:
            return str(text)
        shown = str(text).replace(userinfo + "@", "")
        password = userinfo.partition(":")[2]
        for secret in (userinfo, password, unquote(password)):
            # Cutting out a word of three letters would spoil the sentence more than it would hide.
            shown = shown.replace(secret, "***") if len(secret) > 3 else shown
        return shown

    def reason(self, error: object) -> str:
        """The first line of an error, fit to be shown."""
        lines = self.scrubbed(error).strip().splitlines()
        return lines[0][:300] if lines else type(error).__name__


def resolve_store(uri: str | None, root: Path) -> Store:
    """The store that `uri` names, or else MLFLOW_TRACKING_URI, or else the file mlflow.db in `root`.

    A relative sqlite path counts from `root`, wherever the command runs.

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
                f"{where}: {format_value(given)}: a database's address takes no options; end it before the question "
                "mark, or write %3F for one in the path"
            )
        if path.startswith("/~"):
            raise UserError(
                f"{where}: {format_value(given)}: names a folder {path.split('/')[1]!r} in the root; of a home "
                f"folder, write {SQLITE}{path[1:]}"
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
    except ValueError as error:  # unclosed brackets around an IPv6 address; it may hold a password, so it is not shown
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
    # The name of a file, such as "mlruns", is what remains from MLflow's former file stores.
    hint = (
        "MLflow keeps no runs in plain folders any more"
        if parts.scheme in ("", "file")
        else f"put an MLflow server in front of another database: mlflow server --backend-store-uri {parts.scheme}:..."
    )
    raise UserError(f"{where} is {store.shown!r}: give {SQLITE}FILE or http(s)://HOST:PORT\n  {hint}")


def prepare_store(store: Store, *, timeout_s: float = 10.0) -> None:
    """Make sure that the store can be written to, before any work: creates a sqlite schema, or asks the server.

    Processes that come at the same time take turns: MLflow's own migration fails when several start it.

    Raises:
        UserError: the store cannot be used; says why, within about `timeout_s` seconds for each of two questions.
    """
    if store.database:
        _prepare_database(store, store.database, timeout_s)
    else:
        _prepare_server(store, timeout_s)


def client(store: Store) -> MlflowClient:
    """MLflow's client for the store, without the lines that it prints and the minutes that it retries by default."""
    # Its database module logs, with a traceback, every failure that it also raises: whoever asked tells it once.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # and so with what it retries
    for chatty in ("mlflow.pyfunc", "mlflow.store.model_registry.abstract_store"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # MLflow reads these at every call and takes them from nowhere else; what the user has set stays.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's models against SQLAlchemy 2.1, on first import
        if store.database:
            from mlflow.store.db import utils

            utils._make_parent_dirs_if_sqlite = _make_folder
        return MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)


def experiment_id(store: Store, name: str) -> str:
    """The id of the experiment, created if there is none and restored if it was deleted.

    A sqlite store's artifacts go to `root`/mlartifacts, so that they are found from any working directory.

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
                found = registry.get_experiment_by_name(name)  # another process was quicker
                assert found is not None
        if found.lifecycle_stage == "deleted":
            registry.restore_experiment(found.experiment_id)
    require_artifacts(store, name, str(found.artifact_location))
    return str(found.experiment_id)


def require_artifacts(store: Store, name: str, location: str) -> None:
    """Make sure, before work, that artifacts can go where an experiment keeps them, as far as that is known here.

    Raises:
        UserError: a folder that is gone with its checkout (MLflow cannot be told of another), or an S3 store that this
            machine writes to itself, without boto3.
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
    """Turn what MLflow raises inside the block into a UserError that says what was being done, and where."""
    try:
        yield
    except _failures() as error:
        said, advice = refusal(store, error)
        raise UserError(f"{doing} failed at {store.shown}\n  {said}" + (f"\n  {advice}" if advice else "")) from None


def refusal(store: Store, error: Exception) -> tuple[str, str]:
    """What a store that said no has said, and what to do about it ("" where that is not known)."""
    said, code = store.reason(error), getattr(error, "error_code", "")
    if "host header" in said.lower():
        host = _host(urlsplit(store.uri))
        return f"it does not answer to the name {host}", f"start it with --allowed-hosts {host} (docs/teams.md)"
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        if store.user is None:
            return "it wants to know who asks (status 401)", f"set {CREDENTIALS}, or MLFLOW_TRACKING_TOKEN"
        return f"it does not take the password of {store.user!r} (status 401)", f"look at {CREDENTIALS}"
    if code == "PERMISSION_DENIED":
        who = f"{store.user!r} may not do this" if store.user else "it does not allow this"
        return f"{who} (status 403)", "ask whoever runs the server for permission (docs/teams.md)"
    return said, ""


def is_unreachable(error: Exception) -> bool:
    """Whether an S3 store that is written to directly did not answer; boto3's errors are no OSErrors."""
    module = sys.modules.get("botocore.exceptions")
    return module is not None and isinstance(error, module.HTTPClientError)


@contextmanager
def as_global_store(store: Store) -> Iterator[None]:
    """Inside the block the store is MLflow's global one, where a version's source is looked up, whatever the client."""
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(store.uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None brings back MLflow's default


def user_name() -> str:
    """Who is at work, for MLflow's column and for trails."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _prepare_database(store: Store, path: Path, timeout_s: float) -> None:
    problem = f"the tracking store {store.shown} cannot be used"
    held = f"{problem}: another process holds {path}.lock\n  wait for it or end it, then try again"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{path}.lock"), held, wait_s=SCHEMA_WAIT_S):
            # Takes and drops the write lock: finds a file that is no database, is read-only, or is held by another.
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
    except Exception as error:  # MLflow's own errors, SQLAlchemy's and Alembic's: all mean that this schema won't do
        raise UserError(f"{problem}: {store.reason(error)}\n  {_advice(store, error)}") from error


def _advice(store: Store, error: Exception) -> str:
    if "out-of-date database schema" in str(error):
        return (
            "made by another version of MLflow: install that one or, if it is an earlier one, copy the file and run "
            f"mlflow db upgrade {shlex.quote(store.uri)}"
        )
    return f"move {store.database} away, or set tracking.uri to another file"


def _prepare_server(store: Store, timeout_s: float) -> None:
    parts = urlsplit(store.uri)
    problem = f"the tracking server {store.shown} cannot be used"
    advice = "start it (mlflow server), or set tracking.uri or MLFLOW_TRACKING_URI to the one that runs"
    request = Request(f"{store.shown}/health")
    userinfo, at, _ = parts.netloc.rpartition("@")
    if at:  # urllib takes no credentials from an address
        request.add_header("Authorization", f"Basic {b64encode(unquote(userinfo).encode()).decode()}")
    try:
        with build_opener().open(request, timeout=timeout_s):  # by the proxies of now; urlopen keeps the first it saw
            pass
    except HTTPError as error:
        error.close()  # it answered; whether it is MLflow, and lets us in, is for the question below to find out
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if not isinstance(reason, ssl.SSLError):  # certificates are MLflow's affair, which has settings for them
            proxy = _proxy_to(parts)
            raise UserError(f"{problem}: no answer{proxy} ({store.reason(reason)})\n  {advice}") from None
    try:
        with short_timeouts(timeout_s):
            client(store).search_experiments(max_results=1)
    except MlflowException as error:
        said, known = refusal(store, error)
        raise UserError(f"{problem}: {said}{_proxy_to(parts)}\n  {known or advice}") from None


@contextmanager
def short_timeouts(timeout_s: float) -> Iterator[None]:
    """MLflow asks once and waits `timeout_s`, where it would otherwise go on for minutes."""
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
    """Make a database's folder, for MLflow, whose own function makes that of an encoded address as it is written."""
    if db_uri.startswith(SQLITE):
        Path(database_path(db_uri)).parent.mkdir(parents=True, exist_ok=True)


def _artifact_folder(store: Store, experiment: str) -> Path:
    # The readable part of two names may be the same; the hash keeps their folders apart.
    readable = re.sub(r"[^\w.-]+", "-", experiment).strip("-.")[:60]
    folder = store.root / ARTIFACTS / f"{readable}-{sha256(experiment.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _failures() -> tuple[type[Exception], ...]:
    """MLflow's errors and, on the way to artifacts, OSError (requests too), a package that is missing, and boto3's."""
    modules = [sys.modules.get(name) for name in ("botocore.exceptions", "boto3.exceptions")]
    names = ("BotoCoreError", "ClientError"), ("Boto3Error",)
    boto = [getattr(module, name) for module, here in zip(modules, names, strict=True) if module for name in here]
    return MlflowException, OSError, ImportError, *boto


def _proxy_to(parts: SplitResult) -> str:
    """Which proxy is asked for an address, in words; "" if none. The environment names it, or the system."""
    host = parts.hostname or ""
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme) or getproxies().get("all")
    if not proxy:
        return ""
    shown = urlsplit(proxy)._replace(netloc=_host(urlsplit(proxy))).geturl()
    return f" by way of the proxy {shown}, which the environment names; NO_PROXY={host} asks it directly"


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]
