"""A cluster by `ray up`: started, used and taken down from the machine that you type on.

The cluster's file is `docker/ray-<name>.yaml`, or any path. Everything goes through Ray's own launcher, which knows
how to reach each provider's machines. The run itself lives on the head, in a session of its own: it outlives the
connection, and `cluster repro` typed again watches the one that runs, or goes on with one that has ended.
"""

import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.cluster.launch.cluster_files import (
    FOLDER,
    LAUNCHERS_OWN,
    MARK,
    Cluster,
    copy_by_launcher,
    head_process,
    launcher,
    run_launcher,
    run_on_each,
    run_on_head,
)
from pipeline.cluster.storage import worker_environment
from pipeline.config import load_params
from pipeline.errors import UserError, join_lines
from pipeline.provenance.git import run_git

LOG, PID, STATUS = (f"state/cluster-repro.{name}" for name in ("log", "pid", "status"))
"""On the head: what the run says, its process, and, once it has ended, its exit status."""

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

KILLED = -1
"""In place of an exit status: the run has left none."""


def up(cluster: Cluster) -> Iterator[str]:
    """Start a cluster, or bring one up to date, and wait until its workers have joined. Yields what to tell.

    Raises:
        UserError: a machine cannot be reached, a run is there, Ray's launcher fails, or a worker does not join.
    """
    check_reachable(cluster)
    if _runs(cluster):
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
    state = run_on_head(cluster, _state_command())
    if state[-1:] != ["runs"]:
        _send_checkout(cluster)
        _send_data(cluster)
        run_on_head(cluster, _start_command(arguments))
    else:
        yield "a run is there already; this watches it"
    status = yield from _watch(cluster)
    if status == KILLED:
        raise UserError(
            "the run on the head was killed: the head was lost, or its memory full. `cluster up` starts Ray anew; the "
            "same command then goes on from what the head's disk has kept."
        )
    if status != 0:
        raise UserError(
            f"the run on the head ended with status {status}. Mend what it says, and type the same again to go on."
        )
    yield f"brought back: {', '.join(_fetch_results(cluster))}"


def status(cluster: Cluster) -> Iterator[str]:
    """What the cluster consists of and how its run stands, in lines.

    Raises:
        UserError: the head cannot be reached.
    """
    yield from _nodes(cluster) or ["no node answers"]
    state = run_on_head(cluster, _state_command())
    yield f"run: {state[-1] if state else 'none'}"
    yield from run_on_head(cluster, f"tail -n 5 {LOG} 2>/dev/null || true")


def down(cluster: Cluster) -> Iterator[str]:
    """Take a cluster down, hard, and look whether anything of it is left.

    Raises:
        UserError: something is, or could not be looked at.
    """
    subprocess.run([launcher(), "down", "-y", str(cluster.file)], cwd=cluster.root)
    left = []
    if cluster.own_machines:
        # `ray down` leaves what it cannot reach through the head, and processes that it did not start.
        asked = run_on_each(cluster, cluster.own_machines, _stop_command())
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
    needs = (
        "for tool in rsync make git pgrep setsid; do command -v $tool >/dev/null || echo it has no $tool; done; "
        f"test -x {FOLDER}/.venv/bin/python || python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' "
        "|| echo it has no Python 3.11 or newer"
    )
    asked = run_on_each(cluster, cluster.own_machines, needs)
    if wrong := [f"{address}: {said}" for address, said in asked.items() if said]:
        raise UserError(f"{cluster.file.name}: machines that cannot take part:\n" + join_lines(wrong, most=40))


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
        return run_on_head(
            cluster, "python -c 'from pipeline.cluster.launch.launcher import print_nodes; print_nodes()'"
        )
    except UserError:
        return []


def _runs(cluster: Cluster) -> bool:
    """Whether a run is at work; not where there is no head yet."""
    try:
        return run_on_head(cluster, _state_command())[-1:] == ["runs"]
    except UserError:
        return False


def _state_command() -> str:
    """Says `runs`, `ended with status N`, or `none`."""
    return (
        f"if [ -f {STATUS} ]; then echo ended with status $(cat {STATUS}); "
        f"elif [ -f {PID} ] && kill -0 $(cat {PID}) 2>/dev/null; then echo runs; "
        f"elif [ -f {PID} ]; then echo was killed; else echo none; fi"
    )


def _start_command(arguments: Sequence[str]) -> str:
    run = f"[ ! -f {HANDED} ] || {{ . {HANDED}; rm -f {HANDED}; }}; echo $$ > {PID}; "
    run += f"python -m pipeline.cli repro {shlex.join(arguments)}; echo $? > {STATUS}"
    return (
        f"mkdir -p state && rm -f {STATUS} {PID} {LOG} && touch {LOG} && "
        f"(setsid nohup bash -c {shlex.quote(run)} > {LOG} 2>&1 < /dev/null &) && "
        f"until [ -s {PID} ]; do sleep 0.2; done"
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


def _stop_command() -> str:
    """Ends the run and Ray, and says what is left of either."""
    return (
        f"cd {FOLDER} 2>/dev/null || exit 0; "
        # What it has done is in the search's journal, so it may be ended at any moment. In the background of a shell it
        # does not hear interruptions.
        f"if [ -f {PID} ] && [ ! -f {STATUS} ]; then run=$(cat {PID}); pkill -TERM -s $run; fi; "
        ".venv/bin/ray stop --force >/dev/null 2>&1; docker/fence.sh down >/dev/null 2>&1; sleep 1; "
        'if [ -n "$run" ]; then pkill -KILL -s $run; sleep 1; fi; '
        # The letters in brackets keep this command itself from being found.
        "pgrep -u $(id -u) -l -f '[r]aylet/raylet|[g]cs_server|[r]ay/dashboard|[p]ipeline.stages' | cut -c 1-60"
    )


def _watch(cluster: Cluster) -> Generator[str, None, int]:
    """Yield the run's lines as they come, also over lost connections, and return its status."""
    seen, lost = 0, 0
    while True:
        follow = f"tail -n +{seen + 1} -f {LOG} & tail=$!; while [ ! -f {STATUS} ] && kill -0 $(cat {PID}); "
        follow += "do sleep 1; done; sleep 1; kill $tail"
        follow = f"{{ {follow}; }} 2>/dev/null"
        process, ours = head_process(cluster, follow), False
        assert process.stdout is not None
        for line in process.stdout:
            if ours and not LAUNCHERS_OWN.match(line):
                seen += 1
                yield line.rstrip("\r\n")
            ours = ours or line.rstrip("\r\n") == MARK
        process.wait()
        try:
            state = run_on_head(cluster, _state_command())[-1]
        except UserError:
            lost += 1
            if lost > 5:
                raise
            time.sleep(10)
            continue
        if state != "runs":
            return int(state.rpartition(" ")[2]) if state.startswith("ended") else KILLED


def _send_checkout(cluster: Cluster) -> None:
    """Bring the head's checkout to what is here: files that git knows or would take, and the commit; no data."""
    with _archive(cluster.root) as archive:
        copy_by_launcher(cluster, "rsync-up", str(archive), "~/sar-search.tar")
    kept = " ".join(f"--exclude=/{name}" for name in STAYS)
    run_on_head(
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
    back = run_on_head(cluster, f"tar -cvf ~/sar-search-back.tar $(ls -d {' '.join(BACK)} 2>/dev/null)")
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
    run_on_head(cluster, "rm -f ~/sar-search-back.tar")
    return there
