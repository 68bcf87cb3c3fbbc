"""Make pretend machines of Linux namespaces: own address, processes, sshd, home, /tmp, /dev/shm.

Every machine is a process tree in anonymous namespaces that dies with the test process, whatever
ends it: there is nothing to clean up, and nothing is added to the real machine's network. The
switch between them lives in a network namespace of its own.

A pid namespace per machine is not a nicety: `ray stop`, which `ray up` and `ray down` run, kills
every Ray process it can see.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.namespaces import (
    HOME,
    PATH,
    die_with_parent,
    execute,
    in_network,
    inside,
    namespace,
    plug,
)

REPOSITORY = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("boot.sh")
SHARED = "/mnt/shared"
_SSHD = """\
HostKey /mnt/disk/etc/host_key
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
UsePAM no
UseDNS no
StrictModes no
PidFile none
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
"""
# Without it torch's rendezvous waits 10 s for each reverse look-up that no server answers.
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"


@dataclass(frozen=True, kw_only=True)
class Host:
    """One running machine.

    Attributes:
        name: host name.
        address: its IPv4 address.
        disk: what is its /root and /tmp, seen from outside.
        pid: its first process, seen from outside.
        switch: process whose network is the switch's.
        port: its cable there.
    """

    name: str
    address: str
    disk: Path
    pid: int
    switch: int
    port: str

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command in a login shell on this machine; its output is merged and piped."""
        shell = ["bash", "--login", "-c", f"source ~/.bashrc; cd {REPOSITORY}; {command}"]
        return subprocess.Popen(
            [*inside(self.pid, "-m", "-u", "-i", "-n", "-p", "-r", "-w"), *shell],
            env={"PATH": PATH, "HOME": HOME, "LANG": "C.UTF-8", "USER": "root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=die_with_parent,
        )

    def run(self, command: str, *, status: int | None = 0, timeout: float = 900) -> str:
        """Run a command to its end; return all it printed.

        Args:
            command: a shell command.
            status: the exit status it has to have; None: any.
            timeout: seconds.
        """
        began = time.monotonic()
        process = self.start(command)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"{timeout:g} s were too few for {command}\n{output}") from None
        seconds = time.monotonic() - began
        print(f"--- {self.name}: {command}  ({seconds:.1f} s)\n{output}", flush=True)
        assert status is None or process.returncode == status, f"{process.returncode}: {output}"
        return output

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Take out its cable until the block ends."""
        in_network(self.switch, f"link set {self.port} down")
        try:
            yield
        finally:
            in_network(self.switch, f"link set {self.port} up")

    def processes(self, text: str) -> list[int]:
        """Find processes of this machine, seen from outside, by a text in their command line."""
        machine = os.readlink(f"/proc/{self.pid}/ns/pid")
        processes = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if text in command and os.readlink(entry / "ns/pid") == machine:
                    processes.append(int(entry.name))
        return processes

    def kill(self, text: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to `processes` with that text; return how many there were."""
        processes = self.processes(text)
        for process in processes:
            os.kill(process, number)
        return len(processes)


@contextlib.contextmanager
def machines(
    directory: Path, addresses: Mapping[str, str], laptop: str
) -> Iterator[dict[str, Host]]:
    """Make machines, connected by a switch, that live until the block ends.

    Args:
        directory: where their disks, and the directory they share, are kept.
        addresses: IPv4 address by host name, all in one /24.
        laptop: the host that sees the checkout and holds the private key.

    Yields:
        The machines by name, once all accept ssh.
    """
    (directory / "shared").mkdir(parents=True)
    key = directory / "key"
    execute("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    gateway = f"{next(iter(addresses.values())).rpartition('.')[0]}.1"
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(namespace(["--net"], ["sleep", "infinity"], {}))
        in_network(switch, "link add br0 type bridge", f"addr add {gateway}/24 dev br0")
        in_network(switch, "link set br0 up", "link set lo up")
        hosts = {}
        for name, address in addresses.items():
            disk = directory / name
            _install(disk, addresses, key, has_private_key=name == laptop)
            environment = {
                "NAME": name,
                "DISK": str(disk),
                "SHARED": str(directory / "shared"),
                "REPOSITORY": str(REPOSITORY),
                "CHECKOUT": "shown" if name == laptop else "hidden",
                "VENV": sys.prefix,
                "PYTHON": sys.base_prefix,
            }
            kinds = ["--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc"]
            with open(disk / "console.log", "w") as console:
                pid = stack.enter_context(
                    namespace(kinds, ["bash", str(BOOT)], environment, console.fileno())
                )
            port = f"port{len(hosts)}"
            plug(switch, pid, port, address, gateway)
            hosts[name] = Host(
                name=name, address=address, disk=disk, pid=pid, switch=switch, port=port
            )
        for host in hosts.values():
            _wait_for_ssh(switch, host)
        yield hosts


def _install(disk: Path, addresses: Mapping[str, str], key: Path, has_private_key: bool) -> None:
    """Write what an installed machine has: host key, names, shell start-up, who may log in."""
    home, etc = disk / "root", disk / "etc"
    for part in (home / ".ssh", etc, disk / "tmp"):
        part.mkdir(parents=True)
    (disk / "tmp").chmod(0o1777)
    home.chmod(0o700)
    shutil.copy(key.with_suffix(".pub"), home / ".ssh/authorized_keys")
    if has_private_key:
        shutil.copy(key, home / ".ssh/id_ed25519")
    (home / ".bashrc").write_text(f'export PATH="{sys.prefix}/bin:$PATH"\n')
    execute("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(etc / "host_key"))
    names = "".join(f"{address} {name}\n" for name, address in addresses.items())
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    (etc / "nsswitch.conf").write_text(_NSSWITCH)
    (etc / "sshd_config").write_text(_SSHD)


def _wait_for_ssh(switch: int, host: Host) -> None:
    knock = f"exec 3<>/dev/tcp/{host.address}/22 && head -c 3 <&3"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = subprocess.run([*inside(switch, "-n"), "bash", "-c", knock], capture_output=True)
        if answer.stdout == b"SSH":
            return
        time.sleep(0.1)
    console = (host.disk / "console.log").read_text()
    raise RuntimeError(f"{host.name} does not answer on port 22: {console}")
