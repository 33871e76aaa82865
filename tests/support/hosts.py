"""Hosts on one machine: network namespaces on a bridge, each with its own processes, temporary files, home and sshd.

Enough for a real `ray up` of one's own machines, and for killing one or cutting it off. The hosts see this machine's
file system, which stands for an image that all have, except for what is their own: /tmp, /dev/shm, and, in /tmp, the
home of root. Needs root, network namespaces, and sshd.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

NETWORK = "10.78.0"
BRIDGE = "sarbr"


def what_lacks() -> str:
    """Why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("ip", "unshare", "ssh", "rsync", "make", "ss"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    if not Path("/usr/sbin/sshd").exists():
        return "needs /usr/sbin/sshd"
    tried = subprocess.run(["ip", "netns", "add", "sarprobe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "sarprobe"], capture_output=True)
    return f"needs network namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class Hosts:
    """So many hosts, at 10.78.0.1 and on. folder: for keys and logs; outside of /tmp the hosts see it too."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.key = folder / "key"
        self._first: dict[int, subprocess.Popen[bytes]] = {}

    def address(self, number: int) -> str:
        return f"{NETWORK}.{number}"

    @property
    def outside(self) -> str:
        """The address by which the hosts reach the machine that they are on."""
        return f"{NETWORK}.254"

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def up(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "host_key"))
        (self.folder / "passwd").write_text(
            "".join(
                "root:x:0:0:root:/tmp/home:/bin/bash\n" if line.startswith("root:") else line
                for line in Path("/etc/passwd").read_text().splitlines(keepends=True)
            )
        )
        self._unplug()  # what a test run that was killed has left
        _do("ip", "link", "add", BRIDGE, "type", "bridge")
        _do("ip", "address", "add", f"{self.outside}/24", "dev", BRIDGE)
        _do("ip", "link", "set", BRIDGE, "up")
        for number in self.numbers:
            self._start(number)
        for number in self.numbers:
            self._wait(number)

    def _start(self, number: int) -> None:
        space, wire = f"sar{number}", f"sarwire{number}"
        _do("ip", "netns", "add", space)
        _do("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", space)
        _do("ip", "link", "set", wire, "master", BRIDGE, "up")
        _do("ip", "-n", space, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            _do("ip", "-n", space, "link", "set", link, "up")
        sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", str(self.folder / "host_key")]
        options = {
            "ListenAddress": self.address(number),
            "PidFile": "none",
            "AuthorizedKeysFile": f"{self.key}.pub",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "MaxStartups": "100",
            "Subsystem": "sftp internal-sftp",
        }
        sshd += [part for name, value in options.items() for part in ("-o", f"'{name}={value}'")]
        inside = (
            f"hostname sar{number}; mount -t tmpfs tmpfs /tmp; mount -t tmpfs -o size=2g tmpfs /dev/shm; mkdir /tmp/home; "
            f"mount --bind {self.folder}/passwd /etc/passwd; exec {' '.join(sshd)}"
        )
        own = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc", "bash", "-c", inside]
        with (self.folder / f"host{number}.log").open("wb") as log:
            self._first[number] = subprocess.Popen(
                ["ip", "netns", "exec", space, *own], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _wait(self, number: int) -> None:
        for _ in range(100):
            if self.run(number, "true").returncode == 0:
                return
            time.sleep(0.2)
        raise RuntimeError((self.folder / f"host{number}.log").read_text())

    def run(self, number: int, command: str, seconds: float = 300) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host, as its user would through ssh."""
        options = ["BatchMode=yes", "ConnectTimeout=5", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        flags = [part for option in [*options, "LogLevel=ERROR"] for part in ("-o", option)]
        return subprocess.run(
            ["ssh", "-i", str(self.key), *flags, f"root@{self.address(number)}", command],
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def on_another_network(self, number: int) -> str:
        """Give a host a second interface, with an address that no other host reaches; the address."""
        address = f"10.79.0.{number}"
        _do("ip", "-n", f"sar{number}", "link", "add", "other", "type", "bridge")
        _do("ip", "-n", f"sar{number}", "address", "add", f"{address}/24", "dev", "other")
        _do("ip", "-n", f"sar{number}", "link", "set", "other", "up")
        return address

    def cut(self, number: int) -> None:
        """Pull out a host's network cable."""
        _do("ip", "link", "set", f"sarwire{number}", "down")

    def heal(self, number: int) -> None:
        _do("ip", "link", "set", f"sarwire{number}", "up")

    def kill(self, number: int) -> None:
        """Every process of a host is gone at once."""
        process = self._first.pop(number)
        process.send_signal(signal.SIGKILL)  # its children go with it, by --kill-child
        process.wait()

    def down(self) -> None:
        for number in list(self._first):
            self.kill(number)
        time.sleep(0.5)
        self._unplug()

    def _unplug(self) -> None:
        for number in self.numbers:
            for command in (["link", "del", f"sarwire{number}"], ["netns", "del", f"sar{number}"]):
                with suppress(subprocess.CalledProcessError):
                    _do("ip", *command)
        with suppress(subprocess.CalledProcessError):
            _do("ip", "link", "del", BRIDGE)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
