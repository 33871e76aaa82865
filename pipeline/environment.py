"""Environment variables that the packages below read by themselves, and whether each is removed.

params.yaml says what a run does. A variable is removed, for this process and its children, if it would silently
redirect runs, models, data or results, or the search for them. Credentials, places of caches, and the setup of a
machine stay. Variables that no run of this pipeline reads stay too. docs/environment.md lists the same variables.
This module imports nothing that reads any of them.
"""

import os
from collections.abc import MutableMapping
from fnmatch import fnmatchcase

TAKEN_OUT = {
    "MLFLOW_REGISTRY_URI": "versions would be looked up in another store than tracking.uri",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": "reads would go to another database than writes",
    "MLFLOW_WORKSPACE_STORE_URI": "workspaces would be stored in another database",
    "MLFLOW_RUN_ID": "new runs would be written into an existing one",
    "MLFLOW_EXPERIMENT_ID": "runs would go to another experiment than tracking.experiment",
    "MLFLOW_EXPERIMENT_NAME": "runs would go to another experiment than tracking.experiment",
    "MLFLOW_ACTIVE_MODEL_ID": "logged data would be linked to another model",
    "_MLFLOW_ACTIVE_MODEL_ID": "logged data would be linked to another model",
    "MLFLOW_RUN_CONTEXT": "runs would get tags of another program",
    "MLFLOW_TRACKING_DIR": "it would name the folder of MLflow's former file store, which is not used",
    "MLFLOW_REGISTRY_DIR": "it would name the folder of MLflow's former file store, which is not used",
    "MLFLOW_TRACING_DESTINATION": "traces would go to another place",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "a call would return before its write has succeeded or failed",
    "_MLFLOW_SERVER_*": "set for an MLflow server's own processes; here they would redirect artifacts",
    "RAY_NAMESPACE": "would put this search's actors into another program's namespace",
    "RAY_RUNTIME_ENV": "would send workers to another folder or environment",
    "RAY_RUNTIME_ENV_HOOK": "would send workers to another folder or environment",
    "RAY_OVERRIDE_*": "would make up resources, labels and node ids",
    "RAY_REDIS_ADDRESS": "would store the state of this machine's Ray in a database elsewhere",
    "RAY_STORAGE": "would store Ray's files elsewhere",
    "RAY_CLIENT_MODE": "would make this process a client in place of a driver",
    "RAY_AIR_*": "Ray Tune's and Train's settings; the pipeline sets those that it needs",
    "RAY_CHDIR_TO_TRIAL_DIR": "paths in params.yaml would mean other files in a worker",
    "RAY_TRAIN_V2_ENABLED": "would choose another Ray Train than the one that is tested",
    "RAY_TRAIN_CALLBACKS": "would run other code in a search",
    "RAY_TUNE_CALLBACKS": "would run other code in a search",
    "TUNE_*": "Ray Tune's settings (folder of results, buffering of epochs); the pipeline sets those that it needs",
    "OPTUNA_STORAGE": "a study's own database; searches keep theirs under state/",
    "DVC_ROOT": "DVC sets it for its stages; in a shell that a stage has started, it would name another checkout",
    "GIT_DIR": "git sets it for its hooks: commits would be those of another repository",
    "GIT_WORK_TREE": "files would be compared with those of another repository",
    "GIT_COMMON_DIR": "part of another repository",
    "GIT_INDEX_FILE": "changes would be determined from another index",
    "GIT_OBJECT_DIRECTORY": "part of another repository",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "part of another repository",
    "GIT_NAMESPACE": "part of another repository",
    "GIT_PREFIX": "git sets it for its hooks, in which paths would be relative to another folder",
    "GIT_IMPLICIT_WORK_TREE": "part of another repository",
    "GIT_GRAFT_FILE": "another history",
    "GIT_SHALLOW_FILE": "another history",
    "GIT_REPLACE_REF_BASE": "another history",
    "MATPLOTLIBRC": "figures would be drawn in another style",
}
"""Effect that each removed variable would have, by its name or a pattern of names."""

OF_AN_EXPERIMENT = {
    "DVC_EXP_NAME": "DVC sets it for the stages of an experiment; outside one, a run would be recorded as part of it",
    "DVC_EXP_BASELINE_REV": "as DVC_EXP_NAME",
    "DVC_STAGE": "as DVC_ROOT",
}
"""Variables that are removed when a user types `sar-search`; a stage that DVC starts needs them."""

LEFT_ALONE = {
    "MLFLOW_TRACKING_URI": "where runs go if tracking.uri is null; the plan says where that is",
    "MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN, _AUTH": "credentials",
    "MLFLOW_TRACKING_INSECURE_TLS, _SERVER_CERT_PATH, _CLIENT_CERT_PATH": "how a server is trusted",
    "MLFLOW_WORKSPACE": "a team's part of a server, like an account",
    "MLFLOW_S3_*, AWS_*": "the bucket of a server's artifacts, or of search.cluster.storage, and its keys",
    "MLFLOW_HTTP_*, MLFLOW_*_TIMEOUT": "time limits and retries of requests",
    "RAY_ADDRESS": "the cluster if search.cluster.address is null; the plan says which",
    "RAY_AUTH_*, RAY_TLS_*, RAY_USE_TLS": "credentials, and how a cluster is trusted",
    "RAY_TMPDIR, TMPDIR": "where temporary files go",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "settings that `ray job submit` passes to its job",
    "DVC_SITE_CACHE_DIR, DVC_GLOBAL_CONFIG_DIR, DVC_SYSTEM_CONFIG_DIR": "DVC's own settings of a user, a machine",
    "DVC_STUDIO_*, DVC_EXP_GIT_REMOTE, DVC_EXP_AUTO_PUSH": "where DVC publishes experiments",
    "GIT_CONFIG*, GIT_SSH*, GIT_ASKPASS, GIT_CEILING_DIRECTORIES": "git's own settings of a user, a machine",
    "TORCH_HOME, HF_HOME, HF_HUB_*, HF_ENDPOINT, HF_TOKEN": "source and cache of pretrained weights, which are "
    "identified by their hash",
    "TORCHINDUCTOR_*, TRITON_*, NUMBA_*, CUDA_HOME, CC, CXX": "how kernels are compiled and where they are cached",
    "CUDA_VISIBLE_DEVICES": "the GPUs that are counted and used",
    "PYTORCH_*, TORCH_*, TIMM_*, OMP_NUM_THREADS, MKL_*": "how operations are computed, not which operations",
    "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, SLURM_*": "never read: workers of a run find each other by Ray",
    "MPLBACKEND, MPLCONFIGDIR": "drawing of figures without a window; matplotlib's caches",
    "XDG_*, HOME": "folders of a user's settings and caches",
    "PYTHONPATH": "Python's own; the checkout's code comes first in workers",
}

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_taken: list[str] = []


def clean_environment(variables: MutableMapping[str, str] = os.environ, *, typed: bool = False) -> list[str]:
    """Removes variables that would redirect a run, and excludes this machine's own addresses from proxies.

    Args:
        variables: Environment to change.
        typed: Whether a user has typed the command; False for a stage that DVC starts.

    Returns:
        Sorted names of the removed variables.
    """
    patterns = [*TAKEN_OUT, *(OF_AN_EXPERIMENT if typed else ())]
    found = sorted(name for name in variables if any(fnmatchcase(name, pattern) for pattern in patterns))
    for name in found:
        del variables[name]
    # Under `uv run`, Ray would otherwise upload the checkout and start its workers by `uv run` too.
    variables.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    _pass_proxies_by(variables)
    if variables is os.environ:
        _taken.extend(name for name in found if name not in _taken)
    return found


def removed_variables() -> list[str]:
    """Returns the names of the variables that were removed from this process's environment."""
    return list(_taken)


def _pass_proxies_by(variables: MutableMapping[str, str]) -> None:
    """Excludes this machine's own loopback addresses from proxies, if any proxy is set."""
    if not any(variables.get(name) or variables.get(name.upper()) for name in PROXIES):
        return
    named = [variables.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for text in named for host in text.split(",") if host.strip()]
    joined = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    # Some programs read the one, some the other.
    variables["no_proxy"] = variables["NO_PROXY"] = joined
