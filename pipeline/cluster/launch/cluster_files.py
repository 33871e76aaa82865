"""Cluster files, and access to a cluster's machines from the user's own: by ssh, and by Ray's launcher."""

import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.yaml import read_yaml
from pipeline.errors import UserError, join_lines, quote_name
from pipeline.workspace import Workspace

FOLDER = "~/sar-search"
"""Checkout on the cluster's machines, as in the cluster files."""

MARK = "-- sar-search: from the head --"
"""Line after which the head's output is the command's; the launcher's own lines come before it."""

IN_PLACE = f"cd {FOLDER} && export RAY_AUTH_MODE=token RAY_ADDRESS=auto PATH=$PWD/.venv/bin:$PATH || exit 1; "
IN_PLACE += "export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265; "
"""Shell code before a command on the head.

It enters the checkout and its environment, and sets the addresses of Ray and of its job server.
"""

LAUNCHERS_OWN = re.compile(r"(\x1b\[[\d;]*m)*Shared connection to .* closed\.")
"""Line that ssh writes at the end of each command of the launcher, after the launcher's change of colour."""

NOT_STARTED = "Head node of cluster"
"""Beginning of the launcher's error about a cluster without a head; its end has the cluster's name."""

HARMLESS = re.compile(
    r"Loaded cached provider configuration|If you experience issues with the cloud provider|"
    r"Exception occurred when stopping the cluster Ray runtime|Ignoring the exception and attempting to shut down|"
    + NOT_STARTED
)
"""Warnings of the launcher's `down` that need no action, mostly about a cluster that is down already.

An exception that is no such case has a line of its own with its reason.
"""

RECORD = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+\t(\w+) \S+ -- ")
"""Beginning of a line of the launcher's log, with its level."""

COLOUR = re.compile(r"\x1b\[[\d;]*m")
"""Escape code that changes a terminal's colour."""

REACH_S = 10
"""Seconds within which a machine must answer by ssh."""

REFUSED = "Permission denied"
"""What ssh says if a machine does not accept the login."""

SSH_ADVICE = {
    "UNPROTECTED PRIVATE KEY|bad permissions": "ssh refuses your key, since others can read it: run chmod 600 on the "
    "file of auth.ssh_private_key",
    REFUSED: "it does not accept this user with this key: correct auth.ssh_user or auth.ssh_private_key, "
    "or run ssh-copy-id {login}",
    "Could not resolve hostname": "there is no address for this name: correct provider.head_ip or worker_ips",
    "Connection refused": "nothing listens on its port for ssh: start its ssh server, or correct its address",
    "No route to host|Network is unreachable|timed out": "it cannot be reached: is it switched on, on this network and "
    "without a firewall, and is its address right (provider.head_ip, worker_ips)?",
}
"""What is wrong with a machine, and what to do, by what ssh says."""

UNFILLED = re.compile(r"<[^<>]+>")
"""Placeholder in a cluster file that the user must replace."""


class ClusterNotStarted(UserError):
    """There is no head that a command could run on."""


@dataclass(frozen=True)
class Cluster:
    """A cluster, as its file describes it.

    Attributes:
        file: absolute path of the file.
        content: the parsed file.
        root: the checkout from which the cluster is started.
    """

    file: Path
    content: Mapping[str, Any]
    root: Path

    @property
    def own_machines(self) -> list[str]:
        """Addresses of the user's own machines, the head first; empty if a cloud provides them."""
        provider = self.content["provider"]
        return [provider["head_ip"], *provider.get("worker_ips", [])] if provider.get("type") == "local" else []

    @property
    def engine(self) -> str | None:
        """Container engine on the machines, docker or podman; None if Ray runs without containers."""
        docker = self.content.get("docker") or {}
        return ("podman" if docker.get("use_podman") else "docker") if docker.get("container_name") else None


def open_cluster(workspace: Workspace, name: str) -> Cluster:
    """Reads a cluster file.

    Args:
        workspace: the checkout.
        name: a path, or the name in `docker/ray-<name>.yaml`.

    Raises:
        UserError: there is no such file, it does not describe a cluster, a placeholder in it is not filled in,
            an address, the login or the key of the user's own machines is wrong, or this machine lacks a tool.
    """
    known = {path.stem.removeprefix("ray-"): path for path in sorted((workspace.root / "docker").glob("ray-*.yaml"))}
    file = known.get(name, Path(name).expanduser())
    if not file.is_file():
        raise UserError(
            f"there is no cluster {quote_name(name)}; give the path of a cluster file, or one of these names: "
            f"{', '.join(known) or 'none'}"
        )
    content = read_yaml(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("provider"), Mapping):
        raise UserError(
            f"{file}: is not a cluster file, since it has no section `provider`; name another file (docs/cluster.md)"
        )
    missing = list(dict.fromkeys(f"{file.name}: {path}: fill in {what}" for path, what in _unfilled(content, "")))
    if missing:
        raise UserError(join_lines(missing))
    if wrong := [f"{file.name}: {line}" for line in _wrong_machines(content)]:
        raise UserError(join_lines(wrong))
    if lacking := [tool for tool in ("ssh", "rsync") if shutil.which(tool) is None]:
        raise UserError(f"this machine has no {' and no '.join(lacking)}, by which it reaches a cluster; install them")
    return Cluster(file.absolute(), content, workspace.root)


def _wrong_machines(content: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the description of the user's own machines; nothing if a cloud provides them."""
    provider, auth = content["provider"], content.get("auth") or {}
    if provider.get("type") != "local":
        return
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not isinstance(head, str):
        yield f"provider.head_ip: it is {head!r}; give the head's address"
    if not isinstance(workers, list) or not all(isinstance(worker, str) for worker in workers):
        yield f"provider.worker_ips: it is {workers!r}; give the workers' addresses as a list, [10.0.0.2, 10.0.0.3]"
        workers = []
    for twice in sorted({worker for worker in workers if workers.count(worker) > 1}):
        yield f"provider.worker_ips: {twice} stands there more than once; name every worker once"
    if head in workers:
        yield f"provider.worker_ips: {head} is the head, which trains as the workers do; leave it out of the workers"
    if not isinstance(auth.get("ssh_user"), str):
        yield f"auth.ssh_user: it is {auth.get('ssh_user')!r}; give the login on the machines"
    key = auth.get("ssh_private_key")
    if key and not Path(key).expanduser().is_file():
        yield f"auth.ssh_private_key: there is no file {key}; give the path of your ssh key"


def _unfilled(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yields (dotted path, placeholder) of every placeholder in a cluster file."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unfilled(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _unfilled(item, path)
    elif isinstance(value, str):
        yield from ((path, found) for found in UNFILLED.findall(value))


def launcher() -> str:
    """Returns the path of the program `ray`."""
    return str(Path(sys.executable).with_name("ray"))


def run_launcher(command: Sequence[str], cluster: Cluster) -> "subprocess.CompletedProcess[str]":
    """Runs one of Ray's commands in the checkout, to which paths in the cluster file are relative."""
    return subprocess.run(command, cwd=cluster.root, capture_output=True, text=True)


def run_on_each(cluster: Cluster, addresses: Sequence[str], command: str) -> dict[str, str]:
    """Runs a shell command by ssh on several machines at once.

    Args:
        cluster: the cluster, for user and key.
        addresses: the machines.
        command: the shell command.

    Returns:
        The output of each machine in one line, or why it does not answer and what to do, by address.
    """
    auth = cluster.content["auth"]
    key = ["-i", str(Path(auth["ssh_private_key"]).expanduser())] if "ssh_private_key" in auth else []
    options = [f"ConnectTimeout={REACH_S}", "BatchMode=yes", "StrictHostKeyChecking=no", "LogLevel=ERROR"]
    options += ["UserKnownHostsFile=/dev/null"]
    flags = [part for option in options for part in ("-o", option)]

    def ask(address: str) -> str:
        target = f"{auth['ssh_user']}@{address}"
        try:
            done = subprocess.run(["ssh", *key, *flags, target, command], capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            return "it does not answer within two minutes: log in by ssh to see what keeps it busy"
        if done.returncode != 255:
            return "; ".join(done.stdout.split("\n")).strip("; ")
        for sign, advice in SSH_ADVICE.items():
            if re.search(sign, done.stderr):
                advised = advice.format(login=shlex.join([*key, target]))
                return _judge_key(key[-1], advised) if sign == REFUSED and key else advised
        return "; ".join(done.stderr.split("\n")).strip("; ") or "it does not answer by ssh, which gives no reason"

    with ThreadPoolExecutor(max(1, min(32, len(addresses)))) as pool:
        return dict(zip(addresses, pool.map(ask, addresses), strict=True))


def _judge_key(key: str, advice: str) -> str:
    """Returns why no machine accepts a key, and what to do.

    Args:
        key: path of the private key.
        advice: the advice for a key that ssh can read by itself.
    """
    read = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", key], capture_output=True, text=True)
    if read.returncode == 0:
        return advice
    if "incorrect passphrase" in read.stderr:
        asked = f"your key has a passphrase, for which nobody can be asked here: run ssh-add {shlex.quote(key)}"
        return f"{asked}. If the agent has the key, {advice}"
    return f"{key} holds no private key: correct auth.ssh_private_key (a file named .pub has the public key alone)"


def launcher_troubles(command: Sequence[str], cluster: Cluster) -> Iterator[str]:
    """Runs one of Ray's commands, and yields what its output has of troubles, in plain text as it comes.

    The launcher's notes on its own progress and the warnings of HARMLESS are left out.

    Args:
        command: the command.
        cluster: the cluster, in whose checkout the command runs.
    """
    with subprocess.Popen(
        command, cwd=cluster.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            plain = COLOUR.sub("", line).rstrip()
            record = RECORD.match(plain)
            note = record and record[1] in ("INFO", "VINFO", "VVINFO", "SUCC")
            if plain and not note and not LAUNCHERS_OWN.match(plain) and not HARMLESS.search(plain):
                yield plain[record.end() :] if record else plain


def head_lines(cluster: Cluster, command: str) -> Iterator[str]:
    """Runs a shell command in the head's checkout, and yields its output line by line as it comes.

    Raises:
        ClusterNotStarted: no head runs.
        UserError: the command failed, or the connection was lost.
    """
    try:
        yield from _launched_lines(cluster, command)
    except ClusterNotStarted:
        if not _record_head(cluster):
            raise
        yield from _launched_lines(cluster, command)


def _record_head(cluster: Cluster) -> bool:
    """Lets Ray's launcher know of a head on one of the user's own machines that runs without its knowledge.

    The launcher keeps its record of such machines in /tmp/ray of the machine that started the cluster. A restart may
    empty that folder, a second machine has no such record, and a second cluster of the same name replaces it.

    Returns:
        True if such a head runs.
    """
    if not cluster.own_machines:
        return False
    head = cluster.own_machines[0]
    runs = f"[ -d {FOLDER} ] && pgrep -u $(id -u) -f '[g]cs_server' >/dev/null"
    if cluster.engine:
        name = shlex.quote(cluster.content["docker"]["container_name"])
        runs = f"{cluster.engine} inspect --format '{{{{.State.Running}}}}' {name} 2>/dev/null | grep -q true"
    if run_on_each(cluster, [head], f"{runs} && echo runs")[head] != "runs":
        return False
    from ray.autoscaler._private.local import node_provider
    from ray.autoscaler._private.providers import _get_node_provider

    node_provider.logger.setLevel(logging.WARNING)  # no notes on reading and writing the record
    provider = _get_node_provider(cluster.content["provider"], cluster.content["cluster_name"])
    node_provider.record_local_head_state_if_needed(provider)
    return True


def _launched_lines(cluster: Cluster, command: str) -> Iterator[str]:
    """Runs a shell command as `head_lines` does.

    Raises:
        ClusterNotStarted: the launcher knows of no head.
        UserError: the command failed, or the connection was lost.
    """
    process = subprocess.Popen(
        [launcher(), "exec", str(cluster.file), f"echo '{MARK}'; {IN_PLACE}{command}"],
        cwd=cluster.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    ours, last = False, deque[str](maxlen=12)
    with process.stdout as lines:
        for line in lines:
            if MARK in line and line.rstrip("\r\n") != MARK:
                continue  # the launcher prints a command that failed
            last.append(line.rstrip("\r\n"))
            if ours and not LAUNCHERS_OWN.match(line):
                yield last[-1]
            ours = ours or last[-1] == MARK
    if process.wait() or not ours:
        if any(NOT_STARTED in line for line in last):
            raise ClusterNotStarted(
                f"{cluster.file.name}: this cluster has not been started, or is down. Start it by `make cluster-up` "
                "with the same CLUSTER, or by `sar-search cluster up`."
            )
        raise UserError(
            f"{cluster.file.name}: the command failed on the head: {' '.join(' '.join(last).split())[-600:]}"
        )


def copy_by_launcher(cluster: Cluster, way: str, source: str, target: str) -> None:
    """Copies a file to or from the head.

    Args:
        cluster: the cluster.
        way: `rsync-up` to the head, `rsync-down` from it.
        source, target: the two paths.

    Raises:
        UserError: the file could not be copied.
    """
    done = run_launcher([launcher(), way, str(cluster.file), source, target], cluster)
    if done.returncode:
        raise UserError(
            f"{cluster.file.name}: `ray {way}` failed: {' '.join((done.stdout + done.stderr).split())[-600:]}"
        )
