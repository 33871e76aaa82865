"""What `sar-search cluster` sends to the head, and how a run there begins and is told of."""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cluster.launch.cluster_files import FOLDER, LAUNCHERS_OWN, Cluster, head_lines, open_cluster, run_on_each
from pipeline.cluster.launch.launcher import (
    BEGINS,
    FETCHED,
    HANDED,
    JOB,
    KILLED,
    LOST,
    NONE,
    RUNS,
    SENT,
    STATE,
    STOPPED,
    SUCCEEDED,
    _archive,
    _needs_command,
    _stop_command,
    _submit_command,
    ask_job,
    check_reachable,
    down,
    state_of,
    status,
)
from pipeline.errors import UserError
from pipeline.workspace import Workspace


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    _git(root, "init", "-q")
    (root / ".gitignore").write_text("/data/\n.env\n")
    for name in ("old", "kept"):
        (root / name).write_text(name)
    _git(root, "add", "-A")
    _git(root, "commit", "-qm", "first")
    _git(root, "rm", "-q", "old")
    _git(root, "commit", "-qm", "second")
    _git(root, "remote", "add", "origin", "https://me:pa55word@example.org/x.git")
    return root


def test_what_is_sent_is_what_git_knows_or_would_take_and_the_commit(repository: Path, tmp_path: Path) -> None:
    (repository / "kept").write_text("changed")
    (repository / "new").write_text("new")
    (repository / ".env").write_text("SECRET=1")
    (repository / "data").mkdir()
    (repository / "data" / "images.npy").write_text("many")
    there = tmp_path / "there"
    with _archive(repository) as path, tarfile.open(path) as tar:
        tar.extractall(there, filter="data")
    assert {path.name for path in there.iterdir()} == {".git", ".gitignore", "kept", "new"}
    assert (there / "kept").read_text() == "changed"
    _git(there, "reset", "-q")
    assert _git(there, "rev-parse", "HEAD") == _git(repository, "rev-parse", "HEAD")
    assert _git(there, "status", "--porcelain", "--untracked-files=no") == "M kept"
    assert not [path for path in there.rglob("*") if path.is_file() and b"pa55word" in path.read_bytes()]


def test_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a git repository"), _archive(tmp_path):
        pass


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("none", NONE),
        ("lost", LOST),
        ("PENDING None", RUNS),
        ("RUNNING None", RUNS),
        ("SUCCEEDED 0", SUCCEEDED),
        ("FAILED 3", "ended with status 3"),
        ("FAILED -9", KILLED),
        ("FAILED 137", KILLED),
        ("FAILED 130", "ended with status 130"),
        ("FAILED None", KILLED),
        ("STOPPED None", STOPPED),
        ("", KILLED),
    ],
)
def test_what_ray_says_of_a_job_is_told_in_words(said: str, state: str) -> None:
    assert state_of(said) == state


class Head:
    """A home with ~/sar-search, whose Ray takes a job and runs it at once, and whose Python says its arguments."""

    def __init__(self, home: Path, ray: str) -> None:
        self.home, self.checkout = home, home / "sar-search"
        programs = self.checkout / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, text in {
            "ray": ray,
            "python": 'for word in "$@"; do echo "<$word>"; done; echo "${KEY:-no key}"',
        }.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        self.environment = os.environ | {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}

    def say(self, command: str, status: int = 0) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.checkout, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        return done.stdout.splitlines()


def test_job_gets_its_arguments_and_what_was_handed_to_it_which_is_then_gone(tmp_path: Path) -> None:
    # Ray has what stands after -- run by a shell, each word as it is.
    head = Head(tmp_path, 'echo "${*:1:5}"; while [ "$1" != -- ]; do shift; done; shift; sh -c "$(printf "%q " "$@")"')
    handed = Path(HANDED.replace("~", str(tmp_path)))
    handed.write_text("export KEY='a secret'\n")
    said = head.say(_submit_command(["--force", "it's $HOME"]))
    job = (head.checkout / JOB).read_text().strip()
    assert said[0] == f"job submit --no-wait --submission-id {job}"
    assert said[1:] == [BEGINS, "<-m>", "<pipeline.cli>", "<repro>", "<--force>", "<it's $HOME>", "a secret"]
    assert not handed.exists()


def test_what_was_handed_is_gone_too_where_ray_takes_no_job(tmp_path: Path) -> None:
    head = Head(tmp_path, "echo nothing listens; exit 1")
    handed = Path(HANDED.replace("~", str(tmp_path)))
    handed.touch()
    assert head.say(_submit_command([]), status=1)[-1] == "is Ray running there? `cluster up` starts it"
    assert not handed.exists()


def test_state_of_a_head_without_a_run_and_of_one_whose_ray_is_gone(tmp_path: Path) -> None:
    head = Head(tmp_path, "")
    assert head.say(STATE) == ["none"]
    (head.checkout / JOB).parent.mkdir()
    (head.checkout / JOB).write_text("sar-search-1\n")
    (head.checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho it cannot be reached >&2; exit 1\n")
    assert head.say(STATE) == ["lost"]


def test_file_that_is_no_clusters_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("cluster_name: x\n")
    with pytest.raises(UserError, match="it has no section `provider`"):
        open_cluster(Workspace(tmp_path, tmp_path), str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("path", [SENT, FETCHED, HANDED])
def test_what_is_copied_is_not_taken_for_a_part_of_the_checkout(path: str) -> None:
    """Ray compares the beginnings of the two paths alone, and copies no part of a mount into a container."""
    assert not path.startswith(FOLDER)


CONTAINERS = {"provider": {"type": "local", "head_ip": "10.0.0.1"}, "docker": {"container_name": "mine", "image": "i"}}


@pytest.mark.parametrize(
    ("engine", "rc", "user", "said"),
    [
        (None, "", 0, ["it has no podman"]),
        ("exit 1", "", 0, ["its podman does not answer, or not to this user"]),
        ("exit 0", "", 0, []),
        ("exit 0", "", 1000, []),
        ("exit 0", None, 0, ["it has no ~/.bashrc, which Ray reads"]),
        ("exit 0", "echo welcome", 0, ["its ~/.bashrc or profile prints text"]),
        ("exit 0", "", 1001, ["its user has the number 1001"]),
    ],
)
def test_machine_that_is_to_run_containers_is_asked_for_what_rays_launcher_needs(
    tmp_path: Path, engine: str | None, rc: str | None, user: int, said: list[str]
) -> None:
    content = CONTAINERS | {"docker": CONTAINERS["docker"] | {"use_podman": True}}
    cluster = Cluster(tmp_path / "ray.yaml", content, tmp_path)
    assert cluster.engine == "podman"
    (tmp_path / "bash").symlink_to("/bin/bash")
    for name, does in {"rsync": "exit 0", "podman": engine, "id": f"echo {user}"}.items():
        if does is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / name).chmod(0o755)
    if rc is not None:
        (tmp_path / ".bashrc").write_text(f"{rc}\n")
    done = subprocess.run(
        ["/bin/sh", "-c", _needs_command(cluster)],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(said), lines
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True)), lines


def test_podman_without_what_ray_needs_for_it_is_refused_before_any_machine_is_asked(tmp_path: Path) -> None:
    content = CONTAINERS | {"docker": CONTAINERS["docker"] | {"use_podman": True}}
    with pytest.raises(UserError, match=r"disable_automatic_runtime_detection: set it to true"):
        check_reachable(Cluster(tmp_path / "ray.yaml", content, tmp_path))


def test_container_that_stays_is_told_and_no_process_of_the_machine_is_ended(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "ray.yaml", CONTAINERS, tmp_path)
    asked = tmp_path / "asked"
    (tmp_path / "docker").write_text(f'#!/bin/sh\necho "$*" >> {asked}\nexit $STATUS\n')
    (tmp_path / "docker").chmod(0o755)
    for code, said in (("0", "its container mine is still there"), ("1", "")):
        environment = {"PATH": str(tmp_path), "STATUS": code}
        command = ["/bin/bash", "-c", _stop_command(cluster)]
        assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip() == said
    assert asked.read_text().splitlines() == ["rm -f mine", "inspect mine"] * 2
    assert Cluster(tmp_path / "ray.yaml", {"provider": {}}, tmp_path).engine is None


def test_state_of_a_run_whose_server_is_gone_is_that_of_its_own_checkout(tmp_path: Path) -> None:
    head = Head(tmp_path, "")
    (head.checkout / JOB).parent.mkdir()
    (head.checkout / JOB).write_text("sar-search-1\n")
    (head.checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    command = ["bash", "-c", "read -r _; : pipeline.cli repro"]
    for folder, said in ((tmp_path, "lost"), (head.checkout, "RUNNING None")):
        with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE) as run:
            assert head.say(STATE) == [said]
            run.communicate(b"\n")


def test_cluster_that_was_not_started_is_told_by_the_command_that_starts_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    content = {"cluster_name": "never", "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}}
    file.write_text(
        yaml.safe_dump(content | {"auth": {"ssh_user": "nobody", "ssh_private_key": str(tmp_path / "none")}})
    )
    cluster = Cluster(file, yaml.safe_load(file.read_text()), tmp_path)
    for ask in (status, lambda it: ask_job(it, "logs")):
        with pytest.raises(UserError, match=r"^mine.yaml: this cluster has not been started, .*`make cluster-up`"):
            list(ask(cluster))
    with pytest.raises(UserError) as refused:
        open_cluster(Workspace(tmp_path, tmp_path), str(file))
    none = f"mine.yaml: auth.ssh_private_key: there is no file {tmp_path / 'none'}; give the path of your ssh key"
    assert str(refused.value) == none


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("WARNING: UNPROTECTED PRIVATE KEY FILE!\nPermission denied (publickey).", "run chmod 600 on the file"),
        ("ssh: connect to host 10.0.0.1 port 22: No route to host", "it cannot be reached: is it switched on"),
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", "it cannot be reached: is it switched on"),
        ("ssh: connect to host 10.0.0.1 port 22: Connection refused", "start its ssh server"),
        ("ssh: Could not resolve hostname a: Name or service not known", "there is no address for this name"),
        ("something new", "something new"),
    ],
)
def test_machine_that_ssh_does_not_reach_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    (tmp_path / "ssh").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    content = {"auth": {"ssh_user": "root", "ssh_private_key": "/a/key"}}
    answer = run_on_each(Cluster(tmp_path / "ray.yaml", content, tmp_path), ["10.0.0.1"], "true")["10.0.0.1"]
    assert told in answer
    assert "\n" not in answer
    assert told == "something new" or said not in answer


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ray leaves its record open
@pytest.mark.parametrize("record", ["none", "of another cluster with this name"])
def test_head_that_the_launcher_does_not_know_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    """Ray's launcher knows only what it has itself started on this machine, and forgets it with /tmp."""
    head = Head(tmp_path / "home", "")
    lines = ["#!/bin/bash", 'while [ "$1" != nobody@127.0.0.1 ]; do shift; done; shift', f"export HOME={head.home}"]
    (tmp_path / "ssh").write_text("\n".join([*lines, 'exec bash -c "$*"']))
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "key").touch(mode=0o600)
    (head.home / ".bashrc").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    name = f"test-{os.getpid()}"
    provider = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2"]}
    auth = {"ssh_user": "nobody", "ssh_private_key": str(tmp_path / "key")}
    content = {"cluster_name": name, "provider": provider, "auth": auth}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    cluster = Cluster(tmp_path / "mine.yaml", content, tmp_path)
    if record != "none":
        Path("/tmp/ray").mkdir(exist_ok=True)
        other = {"127.0.0.9": {"tags": {"ray-node-type": "head"}, "state": "running"}}
        Path(f"/tmp/ray/cluster-{name}.state").write_text(json.dumps(other))
    ray = subprocess.Popen(["bash", "-c", "exec -a gcs_server sleep 600"])
    try:
        said = list(head_lines(cluster, "pwd -P; echo $RAY_AUTH_MODE"))
        assert said == [str(head.checkout.resolve()), "token"]
    finally:
        ray.kill()
        ray.wait()
        for left in Path("/tmp/ray").glob(f"cluster-{name}.*"):
            left.unlink()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("good", "or run ssh-copy-id -i {key} root@a"),
        (
            "passphrase",
            "your key has a passphrase, for which nobody can be asked here: run ssh-add {key}. If the agent has",
        ),
        ("public", "holds no private key: correct auth.ssh_private_key"),
    ],
)
def test_key_that_no_machine_can_accept_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, told: str
) -> None:
    key = tmp_path / "key"
    phrase = "secret" if kind == "passphrase" else ""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", str(key)], check=True)
    if kind == "public":
        key.write_text(key.with_suffix(".pub").read_text())
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'a: Permission denied (publickey,password).' >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    content = {"auth": {"ssh_user": "root", "ssh_private_key": str(key)}}
    answer = run_on_each(Cluster(tmp_path / "ray.yaml", content, tmp_path), ["a"], "true")["a"]
    assert told.format(key=key) in answer
    assert "\n" not in answer
    assert "publickey" not in answer


def test_machine_without_ssh_or_rsync_is_told_before_a_cluster_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"cluster_name": "mine", "provider": {"type": "aws"}}))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^this machine has no ssh and no rsync, by which it reaches a cluster"):
        open_cluster(Workspace(tmp_path, tmp_path), str(file))


@pytest.mark.parametrize(
    ("provider", "auth", "told"),
    [
        ({"head_ip": "a", "worker_ips": ["b", "a"]}, {}, "provider.worker_ips: a is the head"),
        ({"head_ip": "a", "worker_ips": ["b", "b"]}, {}, "provider.worker_ips: b stands there more than once"),
        ({"head_ip": "a", "worker_ips": "b, c"}, {}, "provider.worker_ips: it is 'b, c'; give the workers' addresses"),
        ({"head_ip": "a", "worker_ips": None}, {}, "provider.worker_ips: it is None; give the workers' addresses"),
        ({"head_ip": "a"}, {}, "provider.worker_ips: it is None; give the workers' addresses"),
        ({"worker_ips": ["b"]}, {}, "provider.head_ip: it is None; give the head's address"),
        (
            {"head_ip": "a", "worker_ips": []},
            {"ssh_user": None},
            "auth.ssh_user: it is None; give the login on the machines",
        ),
    ],
)
def test_own_machines_that_are_named_wrongly_are_told(
    tmp_path: Path, provider: dict[str, Any], auth: dict[str, Any], told: str
) -> None:
    file = tmp_path / "mine.yaml"
    content = {"cluster_name": "mine", "provider": provider | {"type": "local"}, "auth": {"ssh_user": "root"} | auth}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as refused:
        open_cluster(Workspace(tmp_path, tmp_path), str(file))
    assert str(refused.value).startswith(f"mine.yaml: {told}")
    assert "\n" not in str(refused.value)


DOWN_ALREADY = (
    "2026-12-02 20:44:08,291\tINFO commands.py:478 -- Destroying cluster. \x1b[4mConfirm [y/N]:\x1b[24m y\n"
    "2026-12-02 20:44:08,298\tVWARN commands.py:388 -- \x1b[33mLoaded cached provider configuration from /x\x1b[39m\n"
    "2026-12-02 20:44:08,299\tWARN commands.py:394 -- If you experience issues with the cloud provider, try it\n"
    "2026-12-02 20:44:08,311\tVERR commands.py:496 -- \x1b[31mHead node of cluster (x) not found!\x1b[39m\n"
    "2026-12-02 20:44:08,311\tWARN commands.py:497 -- Exception occurred when stopping the cluster Ray runtime (-v).\n"
    "2026-12-02 20:44:08,311\tWARN commands.py:501 -- Ignoring the exception and attempting to shut down the nodes.\n"
    "2026-12-02 20:44:13,331\tSUCC commands.py:597 -- \x1b[32mNo nodes remaining.\x1b[39m\n"
)
FAILURE = "2026-12-02 20:44:14,000\tVERR commands.py:496 -- \x1b[31mSSH command failed.\x1b[39m\nTraceback: it broke\n"


@pytest.mark.parametrize(("said", "shown"), [("", []), (FAILURE, ["SSH command failed.", "Traceback: it broke"])])
def test_taking_down_shows_failures_of_the_launcher_and_not_that_nothing_was_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], said: str, shown: list[str]
) -> None:
    (tmp_path / "said").write_text(DOWN_ALREADY + said)
    (tmp_path / "ray").write_text(f"#!/bin/sh\n[ $1 != down ] || cat {tmp_path}/said\n")
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setattr("pipeline.cluster.launch.launcher.launcher", lambda: str(tmp_path / "ray"))
    lines = list(down(Cluster(tmp_path / "mine.yaml", {"provider": {"type": "aws"}}, tmp_path)))
    assert capfd.readouterr().out == ""  # the launcher itself does not write to the terminal
    assert lines[1:-1] == shown
    assert lines[-1] == "mine.yaml is down; nothing of it is left running"


@pytest.mark.parametrize("before", ["", "\x1b[0m"])
def test_what_ssh_says_at_the_end_is_no_line_of_the_heads(before: str) -> None:
    assert LAUNCHERS_OWN.match(f"{before}Shared connection to 10.0.0.1 closed.\r")
    assert not LAUNCHERS_OWN.match("epoch 1: Shared connection to 10.0.0.1 closed.")
