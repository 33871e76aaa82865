"""SLURM on the hosts of `support.hosts`: Debian's daemons, with settings of a test's own and two partitions, one above."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from support.hosts import Hosts

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

CONFIGURATION = """
ClusterName=sar
SlurmctldHost=sar1({head})
AuthType=auth/munge
# A job that was queued again waits as long as a credential holds.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=120
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def what_slurm_lacks() -> str:
    """Why SLURM cannot be started here; empty if it can."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    return f"needs {', '.join(missing)} (Debian: slurm-wlm, munge)" if missing else ""


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


class Slurm:
    """A controller on the first host, and a daemon on each. Commands are typed on the first one, in a folder."""

    def __init__(self, hosts: Hosts, folder: Path, typed_in: Path) -> None:
        self.hosts, self.folder, self.typed_in = hosts, folder, typed_in
        self.conf = folder / "slurm.conf"
        self._munge: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        (self.folder / "controller").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(bytes(range(128)))
        files = {name: f"{self.folder}/munge.{name}" for name in ("socket", "pid", "log", "seed")}
        command = [str(_program("munged")), "--foreground", "--force", f"--key-file={key}"]
        command += [
            f"--socket={files['socket']}",
            f"--pid-file={files['pid']}",
            f"--log-file={files['log']}",
            f"--seed-file={files['seed']}",
        ]
        with (self.folder / "munged.out").open("wb") as out:
            self._munge = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self._wait_for(Path(files["socket"]).exists, "munged.out")
        nodes = [f"NodeName=sar{i} NodeAddr={self.hosts.address(i)} CPUs=2 RealMemory=2000" for i in self.hosts.numbers]
        self.conf.write_text(
            CONFIGURATION.format(folder=self.folder, head=self.hosts.address(1), nodes="\n".join(nodes))
        )
        # Told by name, since the hosts have no control groups by which it could be told.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for number, daemon in [(1, "slurmctld"), *((number, "slurmd") for number in self.hosts.numbers)]:
            out = f"{self.folder}/{daemon}.out"
            self.hosts.run(number, f"{_program(daemon)} -f {self.conf} < /dev/null >> {out} 2>&1")
        idle = ["idle"] * len(self.hosts.numbers)
        ask = "sinfo --noheader --Node --partition=low --format=%T"
        self._wait_for(lambda: self.do(ask, check=False).split() == idle, "slurm*.[ol]*")

    def _wait_for(self, holds: Callable[[], bool], logs: str) -> None:
        for _ in range(60):
            if holds():
                return
            time.sleep(1)
        raise AssertionError("\n".join(path.read_text()[-2000:] for path in self.folder.glob(logs)))

    def down(self) -> None:
        """End what the hosts' own end does not."""
        if self._munge is not None:
            self._munge.terminate()
            self._munge.wait(20)

    def do(self, command: str, check: bool = True) -> str:
        done = self.hosts.run(1, f"cd {self.typed_in} && export SLURM_CONF={self.conf} && {command}")
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, command: str) -> str:
        """The number of a job that `sbatch` has taken."""
        return self.do(f"sbatch --parsable {command}").strip()

    def job(self, number: str, field: str) -> str:
        """A field of what SLURM says of a job: JobState, ExitCode, Restarts."""
        found = re.search(rf"\b{field}=(\S+)", self.do(f"scontrol show job {number} --oneliner"))
        assert found is not None
        return found[1]

    def until(self, number: str, states: tuple[str, ...], seconds: float) -> str:
        end = time.monotonic() + seconds
        while (state := self.job(number, "JobState")) not in states:
            assert time.monotonic() < end, f"job {number} is {state}, and not {states}"
            time.sleep(1)
        return state
