"""A cluster by `ray up`: started, used and taken down from the machine that you type on.

The cluster's file is `docker/ray-<name>.yaml`, or any path. Everything goes through Ray's own launcher, which knows
how to reach each provider's machines. The run itself is a job of Ray's on the head: it outlives the connection, and
`cluster repro` typed again watches the one that runs, or goes on with one that has ended. Ray's job server listens on
the head's loopback, so it is asked there, by `ray job`.
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
    copy_by_launcher,
    head_lines,
    launcher,
    run_launcher,
    run_on_each,
)
from pipeline.cluster.storage import worker_environment
from pipeline.config import load_params
from pipeline.errors import UserError, join_lines
from pipeline.provenance.git import run_git

JOB = "state/cluster-repro.job"
"""On the head: what Ray calls the newest run, by which its job server is asked."""

BEGINS = "-- sar-search: the run --"
"""What a run says first; before it are Ray's own words."""

ASK = "import sys, ray.job_submission as jobs; job = jobs.JobSubmissionClient().get_job_info(sys.argv[1]); "
ASK += "print(job.status.value, job.driver_exit_code)"
STATE = (
    f"if [ ! -s {JOB} ]; then echo none; else python -c '{ASK}' $(cat {JOB}) 2>/dev/null || "
    # The server may be down and the run of this checkout alive. The letter in brackets keeps this command from being
    # found.
    "for run in $(pgrep -u $(id -u) -f '[p]ipeline.cli repro'); do "
    "[ /proc/$run/cwd -ef . ] && echo RUNNING None; done | grep -m 1 . || echo lost; fi"
)
"""On the head: says the newest run's status and exit status."""

FOLLOW = f"PYTHONUNBUFFERED=1 ray job logs --follow --log-style pretty --log-color false $(cat {JOB}) 2>/dev/null | "
# Ray names the command that it runs in the same output, after its first lines at times.
FOLLOW += f"sed -u '1,/^{BEGINS}$/d; /Running entrypoint for job sar-search-/d; "
FOLLOW += "/^---*$/d; /^Job .sar-search-[0-9]*. /,$d'"
"""On the head: says the newest run's lines from its first one on, as they come, without Ray's before and after them."""

STOPS = '{"env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "90"}}'
"""Have Ray end a run as Ctrl-C would, and kill it only if it is still there after so many seconds."""

NONE, RUNS, STOPPED, SUCCEEDED = "none", "runs", "was stopped", "ended with status 0"
KILLED, LOST = "was killed", "not known to the Ray that is there"

HANDED = "~/.sar-search-handed"
"""On the head, until the run has read it: the variables that lead to the bucket of search.cluster.storage."""

BACK = ("dvc.lock", "results", "models")
"""What comes back from the head."""

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
"""What is the head's own, whatever the checkout here is."""

NODES_S = 300
"""Seconds for all workers to have joined."""

FENCE = "sar_search"
"""The table of nft that docker/fence.sh makes."""

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a run after Ctrl-C, which is its own."""

LOST_MOST = 5
"""Times in a row that the head may be out of reach while its run is watched."""


def up(cluster: Cluster) -> Iterator[str]:
    """Start a cluster, or bring one up to date, and wait until its workers have joined. Yields what to tell.

    Raises:
        UserError: a machine cannot be reached, a run is there, Ray's launcher fails, or a worker does not join.
    """
    check_reachable(cluster)
    state = NONE  # also where there is no head yet
    with suppress(UserError):
        state = _state(cluster)
    if state == RUNS:
        raise UserError("a run is on this cluster, and starting Ray anew would end it: watch it by `cluster repro`.")
    if run_launcher([launcher(), "get-auth-token", "--generate"], cluster).returncode:
        raise UserError("~/.ray/auth_token: cannot be made, and a cluster without a token is open to everyone.")
    yield f"starting {cluster.file.name}; the first time every machine makes its environment, which takes minutes"
    if subprocess.run([launcher(), "up", "-y", "--no-config-cache", str(cluster.file)], cwd=cluster.root).returncode:
        raise UserError(f"{cluster.file.name}: `ray up` failed; what it said stands above.")
    wanted, until = len(cluster.own_machines), time.monotonic() + NODES_S
    while len(there := _nodes(cluster)) < wanted and time.monotonic() < until:
        time.sleep(5)
    yield from there
    missing = [address for address in cluster.own_machines if not any(f"({address}," in line for line in there)]
    if missing:
        raise UserError(f"these did not join within {NODES_S} s: {', '.join(missing)}. Look at /tmp/ray there.")
    yield from _open_elsewhere(cluster)


def repro(cluster: Cluster, arguments: Sequence[str]) -> Iterator[str]:
    """Run `sar-search repro` on the head, or watch the one that runs; bring results back. Yields its lines.

    Raises:
        UserError: the head cannot be reached, or the run failed; what it left stays on the head.
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
            "the run on the head was killed: the head was lost, or its memory full. `cluster up` starts Ray anew; the "
            "same command then goes on from what the head's disk has kept."
        )
    if state != SUCCEEDED:
        raise UserError(f"the run on the head {state}. Mend what it says, and type the same again to go on.")
    yield f"brought back: {', '.join(_fetch_results(cluster))}"


def ask_job(cluster: Cluster, command: str) -> Iterator[str]:
    """Yield what `ray job` says of the newest run. command: `logs`, or `stop`, which ends it as Ctrl-C would.

    Raises:
        UserError: there is none, or the head cannot be reached.
    """
    yield from head_lines(
        cluster, f"[ -s {JOB} ] || {{ echo no run was started; exit 1; }}; ray job {command} $(cat {JOB})"
    )


def status(cluster: Cluster) -> Iterator[str]:
    """What the cluster consists of and how its run stands, in lines.

    Raises:
        UserError: the head cannot be reached.
    """
    yield from _nodes(cluster) or ["no node answers"]
    yield f"run: {_state(cluster)}"
    yield from head_lines(cluster, f"ray job logs $(cat {JOB}) 2>/dev/null | tail -n 5")


def down(cluster: Cluster) -> Iterator[str]:
    """Take a cluster down, hard, and look whether anything of it is left.

    Raises:
        UserError: something is, or could not be looked at.
    """
    subprocess.run([launcher(), "down", "-y", str(cluster.file)], cwd=cluster.root)
    left = []
    if cluster.own_machines:
        # `ray down` leaves what it cannot reach through the head, and processes that it did not start.
        asked = run_on_each(cluster, cluster.own_machines, _stop_command(cluster))
        left = [f"{address}: {said}" for address, said in asked.items() if said]
    else:
        for kind in ("get-head-ip", "get-worker-ips"):
            found = run_launcher([launcher(), kind, str(cluster.file)], cluster)
            addresses = re.findall(r"^\d+\.\d+\.\d+\.\d+$", found.stdout, flags=re.MULTILINE)
            left += [f"{address}: still there; end it in the provider's console" for address in addresses]
    if left:
        raise UserError("not everything is down:\n" + join_lines(left))
    yield f"{cluster.file.name} is down; nothing of it is left running"


def check_reachable(cluster: Cluster) -> None:
    """See whether every machine of a list answers by ssh and has what it needs.

    Raises:
        UserError: those that do not, a line each.
    """
    asked = run_on_each(cluster, cluster.own_machines, _needs_command(cluster))
    if wrong := [f"{address}: {said}" for address, said in asked.items() if said]:
        raise UserError(f"{cluster.file.name}: machines that cannot take part:\n" + join_lines(wrong, most=40))


def _needs_command(cluster: Cluster) -> str:
    """Says what a machine lacks."""
    if cluster.engine:
        return (
            f"command -v rsync >/dev/null || echo it has no rsync; if ! command -v {cluster.engine} >/dev/null; "
            f"then echo it has no {cluster.engine}; elif ! {cluster.engine} info >/dev/null 2>&1; "
            f"then echo its {cluster.engine} does not answer, or not to this user; fi"
        )
    return (
        "for tool in rsync make git pgrep; do command -v $tool >/dev/null || echo it has no $tool; done; "
        f"test -x {FOLDER}/.venv/bin/python || python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' "
        "|| echo it has no Python 3.11 or newer"
    )


def _open_elsewhere(cluster: Cluster) -> Iterator[str]:
    """Machines without a fence (docker/fence.sh) that are on further networks, where Ray listens too."""
    others = (
        f"export PATH=$PATH:/usr/sbin; nft list table inet {FENCE} >/dev/null 2>&1 || "
        f"sudo -n nft list table inet {FENCE} >/dev/null 2>&1 || {{ "
        "set -- $SSH_CONNECTION; ip -o address show scope global 2>/dev/null | "
        'awk -v own=$3 \'{sub("/.*", "", $4); if ($4 != own) print $4}\''
    )
    for address, said in run_on_each(cluster, cluster.own_machines, others).items():
        if said:
            yield (
                f"note: {address} is also {said.replace('; ', ', ')}, where Ray listens too (the token is asked for): "
                "install nft, or see docs/cluster.md#who-gets-in"
            )


def print_nodes() -> None:
    """Print the nodes of the cluster that this machine is the head of, a line each. Run there."""
    from pipeline.cluster.connect import cluster_nodes

    for node in cluster_nodes("auto"):
        print(f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs")


def _nodes(cluster: Cluster) -> list[str]:
    try:
        return _do(cluster, "python -c 'from pipeline.cluster.launch.launcher import print_nodes; print_nodes()'")
    except UserError:
        return []


def _do(cluster: Cluster, command: str) -> list[str]:
    return list(head_lines(cluster, command))


def _state(cluster: Cluster) -> str:
    return state_of(" ".join(_do(cluster, STATE)[-1:]))


def state_of(said: str) -> str:
    """How a run stands, of what `STATE` says."""
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
    return KILLED  # by a signal: there is no exit status, or the one that a shell makes of the signal


def _submit_command(arguments: Sequence[str]) -> str:
    run = f"cd {FOLDER} && {{ [ ! -f {HANDED} ] || {{ . {HANDED}; rm -f {HANDED}; }}; }} && echo '{BEGINS}' && "
    # In a container there is no .venv, and the image's own Python has everything.
    run += f"PATH=$PWD/.venv/bin:$PATH exec python -m pipeline.cli repro {shlex.join(arguments)}"
    return (
        f"mkdir -p state && echo sar-search-$(date +%s) > {JOB} && ray job submit --no-wait "
        f"--submission-id $(cat {JOB}) --runtime-env-json {shlex.quote(STOPS)} -- bash -c {shlex.quote(run)} "
        f"|| {{ rm -f {HANDED}; echo 'is Ray running there? `cluster up` starts it'; false; }}"
    )


def _send_data(cluster: Cluster) -> None:
    """Send the head what leads to a bucket, in a file for its user alone: others could see the words of a command."""
    variables = worker_environment(load_params(cluster.root / "params.yaml").search.cluster.storage)
    if not variables:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "handed"
        path.touch(mode=0o600)
        path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
        copy_by_launcher(cluster, "rsync-up", str(path), HANDED)


def _stop_command(cluster: Cluster) -> str:
    """Ends Ray, and with it the run, and says what is left of either."""
    if cluster.engine:
        name = shlex.quote(cluster.content["docker"]["container_name"])
        return (
            f"{cluster.engine} rm -f {name} >/dev/null 2>&1; "
            f"{cluster.engine} inspect {name} >/dev/null 2>&1 && echo its container {name} is still there"
        )
    return (
        f"cd {FOLDER} 2>/dev/null || exit 0; .venv/bin/ray stop --force >/dev/null 2>&1; "
        # A job ends within a second after its Ray. What it has done is in the search's journal.
        "docker/fence.sh down >/dev/null 2>&1; sleep 3; "
        # The letters in brackets keep this command itself from being found.
        "pgrep -u $(id -u) -l -f '[r]aylet/raylet|[g]cs_server|[r]ay/dashboard|[p]ipeline.stages' | cut -c 1-60"
    )


def _watch(cluster: Cluster) -> Generator[str, None, str]:
    """Yield the run's lines as they come, also over lost connections, and return its state."""
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
    """Bring the head's checkout to what is here: files that git knows or would take, and the commit; no data."""
    with _archive(cluster.root) as archive:
        copy_by_launcher(cluster, "rsync-up", str(archive), "~/sar-search.tar")
    kept = " ".join(f"--exclude=/{name}" for name in STAYS)
    _do(
        cluster,
        "rm -rf ~/sar-search.new && mkdir ~/sar-search.new && tar -xf ~/sar-search.tar -C ~/sar-search.new && "
        f"rsync -a --delete {kept} ~/sar-search.new/ {FOLDER}/ && "
        "rm -rf ~/sar-search.new ~/sar-search.tar && git reset -q",
    )


@contextmanager
def _archive(root: Path) -> Iterator[Path]:
    """A tar file of the checkout, with no more of its history than the commit, and nothing of git's own settings."""
    try:
        listed = run_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    except UserError as error:
        raise UserError(f"{error}. `cluster repro` sends what git knows.") from None
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
    """Put what the run left in place of what is here, each folder whole or not at all. Returns what there was."""
    # Given targets, the run has made a part of these alone.
    back = _do(cluster, f"tar -cvf ~/sar-search-back.tar $(ls -d {' '.join(BACK)} 2>/dev/null)")
    there = [name for name in BACK if any(line.rstrip("/") == name for line in back)]
    with tempfile.TemporaryDirectory(dir=cluster.root, prefix=".cluster-") as folder:
        path = Path(folder) / "back.tar"
        copy_by_launcher(cluster, "rsync-down", "~/sar-search-back.tar", str(path))
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
        for name in there:
            here = cluster.root / name
            if here.is_dir():
                shutil.rmtree(here)
            (Path(folder) / name).replace(here)
    _do(cluster, "rm -f ~/sar-search-back.tar")
    return there
