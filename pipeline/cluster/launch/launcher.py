"""Cluster by `ray up`: started, used and taken down from the user's own machine.

The cluster file is `docker/ray-<name>.yaml`, or any path. Every step uses Ray's own launcher, which can reach
each provider's machines. The run itself is a Ray job on the head, so it outlives the connection. `cluster
repro`, typed again, watches a run that is still going, or resumes one that has ended. Ray's job server
listens on the head's loopback, so it is reached by `ray job` on the head.
"""

import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.cluster.launch.cluster_files import (
    FOLDER,
    Cluster,
    ClusterNotStarted,
    copy_by_launcher,
    head_lines,
    launcher,
    launcher_troubles,
    run_launcher,
    run_on_each,
)
from pipeline.cluster.storage import worker_environment
from pipeline.config import load_params
from pipeline.errors import UserError, join_lines
from pipeline.provenance.git import run_git

JOB = "state/cluster-repro.job"
"""File on the head with Ray's id of the newest run, for its job server."""

BEGINS = "-- sar-search: the run --"
"""First line of a run's own output, after Ray's lines."""

ASK = "import sys, ray.job_submission as jobs; job = jobs.JobSubmissionClient().get_job_info(sys.argv[1]); "
ASK += "print(job.status.value, job.driver_exit_code)"
"""Python code that prints status and exit status of the run whose id is its argument."""

STATE = (
    f"if [ ! -s {JOB} ]; then echo none; else python -c '{ASK}' $(cat {JOB}) 2>/dev/null || "
    # The server may be down while the run of this checkout is alive. The letter in brackets keeps this command from
    # matching itself.
    "for run in $(pgrep -u $(id -u) -f '[p]ipeline.cli repro'); do "
    "[ /proc/$run/cwd -ef . ] && echo RUNNING None; done | grep -m 1 . || echo lost; fi"
)
"""Shell code for the head: prints status and exit status of the newest run."""

FOLLOW = f"PYTHONUNBUFFERED=1 ray job logs --follow --log-style pretty --log-color false $(cat {JOB}) 2>/dev/null | "
# Ray prints the command that it runs into the same output, sometimes after the command's first lines.
FOLLOW += f"sed -u '1,/^{BEGINS}$/d; /Running entrypoint for job sar-search-/d; "
FOLLOW += "/^---*$/d; /^Job .sar-search-[0-9]*. /,$d'"
"""Shell code for the head: prints the newest run's output from its beginning, as it comes.

Ray's own lines before and after the output are removed.
"""

STOPS = '{"env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "90"}}'
"""Runtime environment with which Ray ends a run as Ctrl-C would, and kills it only after this many seconds."""

NONE, RUNS, STOPPED, SUCCEEDED = "none", "runs", "was stopped", "ended with status 0"
KILLED, LOST = "was killed", "unknown to the running Ray"
"""States of the newest run on the head."""

HANDED = "~/.sar-search-handed"
"""File on the head with the variables for the bucket of search.cluster.storage, until the run has read it."""

SENT, FETCHED = "~/.sar-search-sent.tar", "~/.sar-search-fetched.tar"
"""Archives on the head: the checkout that is sent, and the results that are fetched.

Their names must not begin as FOLDER does. Ray takes whatever begins as a path of `file_mounts` for a part of it, and
then does not copy it into or out of the head's container.
"""

BACK = ("dvc.lock", "results", "models")
"""Files and folders that are fetched from the head after a run."""

STAYS = (
    "data",
    "models",
    "results",
    "state",
    "datasets",
    "mlartifacts",
    "mlflow.db*",
    ".venv",
    ".dvc/cache",
    ".dvc/tmp",
)
"""Files and folders of the head that sending the checkout leaves unchanged."""

NODES_S = 300
"""Seconds within which all workers must join."""

FENCE = "sar_search"
"""Table of nft that docker/fence.sh creates."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit status of a run after Ctrl-C. The run sets it itself, so it does not mean that the run was killed."""

LOST_MOST = 5
"""Failures in a row to reach the head after which watching its run ends."""


def up(cluster: Cluster) -> Iterator[str]:
    """Starts or updates a cluster, and waits until its workers have joined.

    Args:
        cluster: the cluster.

    Yields:
        The lines to print.

    Raises:
        UserError: a machine cannot be reached, a run is going on, Ray's launcher fails, or a worker does not
            join.
    """
    check_reachable(cluster)
    state = NONE  # the value if there is no head yet
    with suppress(UserError):
        state = _state(cluster)
    if state == RUNS:
        raise UserError("a run is on this cluster, and starting Ray anew would end it: watch it by `cluster repro`.")
    if run_launcher([launcher(), "get-auth-token", "--generate"], cluster).returncode:
        raise UserError(
            "~/.ray/auth_token: cannot be made, and a cluster without a token is open to everyone. "
            "`ray get-auth-token --generate` says why."
        )
    yield f"starting {cluster.file.name}; the first time every machine makes its environment, which takes minutes"
    if subprocess.run([launcher(), "up", "-y", "--no-config-cache", str(cluster.file)], cwd=cluster.root).returncode:
        raise UserError(
            f"{cluster.file.name}: `ray up` failed; its output above says why. Correct that and repeat the command, or "
            "take down what has started by `cluster down`."
        )
    wanted, until = len(cluster.own_machines), time.monotonic() + NODES_S
    there, said = _nodes(cluster)
    while len(there) < wanted and time.monotonic() < until:
        time.sleep(5)
        there, said = _nodes(cluster)
    yield from there
    if said:
        raise UserError(f"the head does not say which nodes there are: {said}")
    missing = [address for address in cluster.own_machines if not any(f"({address}," in line for line in there)]
    if missing:
        raise UserError(
            f"machines that did not join the cluster within {NODES_S} s: {', '.join(missing)}. Ray's logs on each of "
            "them, in /tmp/ray/session_latest/logs, say why; correct it and repeat the command."
        )
    yield from _open_elsewhere(cluster)


def repro(cluster: Cluster, arguments: Sequence[str]) -> Iterator[str]:
    """Runs `sar-search repro` on the head, or watches the run that is there, and fetches the results.

    Args:
        cluster: the cluster.
        arguments: arguments of `sar-search repro`.

    Yields:
        The run's lines.

    Raises:
        UserError: the head cannot be reached, or the run failed. Its files stay on the head.
    """
    if _state(cluster) == RUNS:
        yield "a run is there already; this watches it"
    else:
        _send_checkout(cluster)
        _send_data(cluster)
        _do(cluster, _submit_command(arguments))
    state = yield from _watch(cluster)
    if state in (KILLED, LOST):
        raise UserError(
            "the run on the head was killed: the head was lost, or its memory was full. Start Ray again by "
            "`cluster up`, and then repeat this command: it resumes from the files on the head's disk."
        )
    if state != SUCCEEDED:
        raise UserError(
            f"the run on the head {state}. Correct what it reports, and run the same command again to resume."
        )
    yield f"brought back: {', '.join(_fetch_results(cluster))}"


def ask_job(cluster: Cluster, command: str) -> Iterator[str]:
    """Runs a `ray job` command on the newest run, and yields its output.

    Args:
        cluster: the cluster.
        command: `logs`, or `stop`, which ends the run as Ctrl-C would.

    Raises:
        UserError: there is no run, or the head cannot be reached.
    """
    yield from head_lines(
        cluster, f"[ -s {JOB} ] || {{ echo no run was started; exit 1; }}; ray job {command} $(cat {JOB})"
    )


def status(cluster: Cluster) -> Iterator[str]:
    """Yields the nodes of the cluster, the state of its run and the run's last lines.

    Args:
        cluster: the cluster.

    Raises:
        UserError: the head cannot be reached.
    """
    there, said = _nodes(cluster)
    yield from there or [f"no node answers{said and ': '}{said}"]
    yield f"run: {_state(cluster)}"
    yield from head_lines(cluster, f"ray job logs $(cat {JOB}) 2>/dev/null | tail -n 5")


def down(cluster: Cluster) -> Iterator[str]:
    """Takes a cluster down by force, and checks that nothing of it is left.

    Args:
        cluster: the cluster.

    Yields:
        The lines to print.

    Raises:
        UserError: something is left, or a machine could not be checked.
    """
    yield f"taking down {cluster.file.name}; this takes up to a few minutes"
    yield from launcher_troubles([launcher(), "down", "-y", str(cluster.file)], cluster)
    left = []
    if cluster.own_machines:
        # `ray down` leaves machines that it cannot reach through the head, and processes that it did not start.
        asked = run_on_each(cluster, cluster.own_machines, _stop_command(cluster))
        left = [f"{address}: {said}" for address, said in asked.items() if said]
    else:
        for kind in ("get-head-ip", "get-worker-ips"):
            found = run_launcher([launcher(), kind, str(cluster.file)], cluster)
            addresses = re.findall(r"^\d+\.\d+\.\d+\.\d+$", found.stdout, flags=re.MULTILINE)
            left += [f"{address}: still there; end it in the provider's console" for address in addresses]
    if left:
        raise UserError(
            f"{cluster.file.name}: not everything is down. End what is listed, or make its machine reachable, then run "
            f"this command again:\n{join_lines(left)}"
        )
    yield f"{cluster.file.name} is down; nothing of it is left running"


def check_reachable(cluster: Cluster) -> None:
    """Checks whether every one of the user's own machines answers by ssh and has the tools that it needs.

    Raises:
        UserError: some do not; a line each. Or podman is to be used, and the file lacks what Ray then needs.
    """
    docker = cluster.content.get("docker") or {}
    if cluster.engine == "podman" and not docker.get("disable_automatic_runtime_detection"):
        raise UserError(
            f"{cluster.file.name}: docker.disable_automatic_runtime_detection: set it to true, since use_podman is "
            "true. Ray's launcher would ask for NVIDIA's runtime, in a form that podman does not know, and fail."
        )
    asked = run_on_each(cluster, cluster.own_machines, _needs_command(cluster))
    if wrong := [f"{address}: {said}" for address, said in asked.items() if said]:
        raise UserError(f"{cluster.file.name}: machines that cannot take part:\n" + join_lines(wrong, most=40))


def _needs_command(cluster: Cluster) -> str:
    """Returns a shell command that prints the tools that a machine lacks."""
    if cluster.engine:
        return (
            f"command -v rsync >/dev/null || echo it has no rsync; if ! command -v {cluster.engine} >/dev/null; "
            f"then echo it has no {cluster.engine}; elif ! {cluster.engine} info >/dev/null 2>&1; "
            f"then echo its {cluster.engine} does not answer, or not to this user; fi; "
            # Ray's launcher runs `source ~/.bashrc` before each command, and parses all that is printed.
            "test -e ~/.bashrc || echo 'it has no ~/.bashrc, which Ray reads: run touch ~/.bashrc there'; "
            'test -z "$(bash --login -i -c "source ~/.bashrc" 2>/dev/null </dev/null)" || '
            "echo 'its ~/.bashrc or profile prints text, which Ray takes for answers of the engine: let it "
            "print nothing'; case $(id -u) in 0|1000) ;; *) echo its user has the number $(id -u). In the image ssh "
            "works for 0 and 1000 alone, and the head needs it to start the workers: log in as such a user;; esac"
        )
    return (
        "for tool in rsync make git pgrep; do command -v $tool >/dev/null || echo it has no $tool; done; "
        f"test -x {FOLDER}/.venv/bin/python || python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' "
        "|| echo it has no Python 3.11 or newer"
    )


def _open_elsewhere(cluster: Cluster) -> Iterator[str]:
    """Yields a note for each machine on which Ray also listens on further networks.

    These are machines with several networks and without a fence (docker/fence.sh).
    """
    others = (
        f"export PATH=$PATH:/usr/sbin; nft list table inet {FENCE} >/dev/null 2>&1 || "
        f"sudo -n nft list table inet {FENCE} >/dev/null 2>&1 || {{ "
        "set -- $SSH_CONNECTION; ip -o address show scope global 2>/dev/null | "
        'awk -v own=$3 \'{sub("/.*", "", $4); if ($4 != own) print $4}\''
    )
    for address, said in run_on_each(cluster, cluster.own_machines, others).items():
        if said:
            yield (
                f"note: {address}: Ray also listens on {said.replace('; ', ', ')}, outside of the cluster's network "
                "(it requires the token there too). To close these ports, install nft, or see docs/cluster/security.md"
            )


def print_nodes() -> None:
    """Prints the nodes of the cluster, a line each. Runs on the head."""
    from pipeline.cluster.connect import cluster_nodes

    for node in cluster_nodes("auto"):
        print(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs")


def _nodes(cluster: Cluster) -> tuple[list[str], str]:
    """Returns a line for each node, and why the head could not be asked; "" if it could."""
    try:
        asked = "python -c 'from pipeline.cluster.launch.launcher import print_nodes; print_nodes()'"
        return _do(cluster, asked), ""
    except ClusterNotStarted:
        raise
    except UserError as error:
        return [], str(error)


def _do(cluster: Cluster, command: str) -> list[str]:
    return list(head_lines(cluster, command))


def _state(cluster: Cluster) -> str:
    return state_of(" ".join(_do(cluster, STATE)[-1:]))


def state_of(said: str) -> str:
    """Returns the state of the newest run: NONE, LOST, RUNS, STOPPED, KILLED or `ended with status N`.

    Args:
        said: Output of the shell code `STATE`: `none`, `lost`, or Ray's status of the job and its exit status. Any
            other output means that a signal killed the run.
    """
    match said.split():
        case ["none"]:
            return NONE
        case ["lost"]:
            return LOST
        case ["PENDING" | "RUNNING", _]:
            return RUNS
        case ["STOPPED", _]:
            return STOPPED
        case ["SUCCEEDED" | "FAILED", code] if code.isdecimal() and (int(code) <= 128 or int(code) == INTERRUPTED):
            return f"ended with status {code}"
    return KILLED  # ended by a signal: there is no exit status, or the status that a shell derives from the signal


def _submit_command(arguments: Sequence[str]) -> str:
    """Returns a shell command that submits `sar-search repro` as a job of Ray."""
    run = f"cd {FOLDER} && {{ [ ! -f {HANDED} ] || {{ . {HANDED}; rm -f {HANDED}; }}; }} && echo '{BEGINS}' && "
    # In a container there is no .venv, and the image's own Python has everything.
    run += f"PATH=$PWD/.venv/bin:$PATH exec python -m pipeline.cli repro {shlex.join(arguments)}"
    return (
        f"mkdir -p state && echo sar-search-$(date +%s) > {JOB} && ray job submit --no-wait "
        f"--submission-id $(cat {JOB}) --runtime-env-json {shlex.quote(STOPS)} -- bash -c {shlex.quote(run)} "
        f"|| {{ rm -f {HANDED}; echo 'is Ray running there? `cluster up` starts it'; false; }}"
    )


def _send_data(cluster: Cluster) -> None:
    """Writes the variables that give access to a bucket to a file on the head.

    Only its user can read the file, whereas other users could see the arguments of a command.
    """
    variables = worker_environment(load_params(cluster.root / "params.yaml").search.cluster.storage)
    if not variables:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "handed"
        path.touch(mode=0o600)
        path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
        copy_by_launcher(cluster, "rsync-up", str(path), HANDED)


def _stop_command(cluster: Cluster) -> str:
    """Returns a shell command that ends Ray, and with it the run, and prints any part of either that is left."""
    if cluster.engine:
        name = shlex.quote(cluster.content["docker"]["container_name"])
        return (
            f"{cluster.engine} rm -f {name} >/dev/null 2>&1; "
            f"{cluster.engine} inspect {name} >/dev/null 2>&1 && echo its container {name} is still there"
        )
    return (
        f"cd {FOLDER} 2>/dev/null || exit 0; .venv/bin/ray stop --force >/dev/null 2>&1; "
        # A job ends within a second after its Ray. The search's journal holds its progress.
        "docker/fence.sh down >/dev/null 2>&1; sleep 3; "
        # The letters in brackets keep this command from matching itself.
        "pgrep -u $(id -u) -l -f '[r]aylet/raylet|[g]cs_server|[r]ay/dashboard|[p]ipeline.stages' | cut -c 1-60"
    )


def _watch(cluster: Cluster) -> Generator[str, None, str]:
    """Yields the run's lines as they come, reconnects when the connection is lost, and returns the run's state."""
    seen, lost = 0, 0
    while True:
        try:
            for number, line in enumerate(head_lines(cluster, FOLLOW)):
                if number >= seen:
                    yield line
                seen = max(seen, number + 1)
            if (state := _state(cluster)) != RUNS:
                return state
            lost = 0
        except UserError:
            lost += 1
            if lost > LOST_MOST:
                raise
        time.sleep(10)


def _send_checkout(cluster: Cluster) -> None:
    """Makes the head's checkout equal to the one here.

    It sends the files that git tracks or would add, and the commit. It sends no data.
    """
    with _archive(cluster.root) as archive:
        copy_by_launcher(cluster, "rsync-up", str(archive), SENT)
    kept = " ".join(f"--exclude=/{name}" for name in STAYS)
    _do(
        cluster,
        f"rm -rf ~/sar-search.new && mkdir ~/sar-search.new && tar -xf {SENT} -C ~/sar-search.new && "
        f"rsync -a --delete {kept} ~/sar-search.new/ {FOLDER}/ && "
        f"rm -rf ~/sar-search.new {SENT} && git reset -q",
    )


@contextmanager
def _archive(root: Path) -> Iterator[Path]:
    """Yields a tar file of the checkout, with the newest commit as its only history, and without git's settings."""
    try:
        listed = run_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    except UserError as error:
        raise UserError(f"{error}. `cluster repro` sends the files that git tracks.") from None
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "commit"
        subprocess.run(
            ["git", "clone", "--quiet", "--depth=1", "--no-checkout", f"file://{root}", str(one)],
            check=True,
            capture_output=True,
        )
        path = Path(folder) / "checkout.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(one / ".git", ".git")
            for name in sorted(set(listed.split("\0")) - {""}):
                if (root / name).is_file():
                    tar.add(root / name, name)
        yield path


def _fetch_results(cluster: Cluster) -> list[str]:
    """Replaces the results here by those of the run, each folder in one step.

    Returns the names of those that exist.
    """
    # A run of some stages only may not have made all of them.
    back = _do(cluster, f"tar -cvf {FETCHED} $(ls -d {' '.join(BACK)} 2>/dev/null)")
    there = [name for name in BACK if any(line.rstrip("/") == name for line in back)]
    with tempfile.TemporaryDirectory(dir=cluster.root, prefix=".cluster-") as folder:
        path = Path(folder) / "back.tar"
        copy_by_launcher(cluster, "rsync-down", FETCHED, str(path))
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
        for name in there:
            here = cluster.root / name
            if here.is_dir():
                shutil.rmtree(here)
            (Path(folder) / name).replace(here)
    _do(cluster, f"rm -f {FETCHED}")
    return there
