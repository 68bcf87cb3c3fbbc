"""Make Linux namespaces as processes that die with this one, and the wires between them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME = "/root"
_TOOLS = {
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
_PROBE = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/{lower,upper,work,merged}
mount -t overlay overlay /mnt/merged -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work
ip link add br0 type bridge
ip link add port0 type veth peer name eth0
"""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def missing() -> list[str]:
    """List what this machine lacks to be several; empty if nothing."""
    lacks = [
        f"{tool} (package {package})"
        for tool, package in _TOOLS.items()
        if shutil.which(tool, path=PATH) is None
    ]
    if os.geteuid() != 0:
        lacks.append("root")
    elif not lacks and (refused := _refused()):
        lacks.append(
            f"CAP_SYS_ADMIN and CAP_NET_ADMIN for namespaces, overlays and bridges ({refused})"
        )
    if sys.prefix == sys.base_prefix:
        lacks.append("a virtual environment")
    return lacks


def _refused() -> str:
    """Try what the machines are made of; return the kernel's error, or nothing."""
    kinds = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run(
        ["unshare", *kinds, "bash", "-e", "-c", _PROBE],
        env={"PATH": PATH},
        capture_output=True,
        text=True,
    )
    return done.stderr.strip() if done.returncode else ""


@contextlib.contextmanager
def namespace(
    kinds: Sequence[str],
    command: Sequence[str],
    environment: Mapping[str, str],
    output: int = subprocess.DEVNULL,
) -> Iterator[int]:
    """Run a command in new namespaces until the block ends; yields its process id."""
    process = subprocess.Popen(
        ["unshare", *kinds, "--fork", "--kill-child", *command],
        env={"PATH": PATH, "HOME": HOME, "LANG": "C.UTF-8", **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        yield _child(process.pid)
    finally:
        process.kill()
        process.wait()


def _child(pid: int) -> int:
    """Find the process that `unshare` forks once its namespaces are there."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.02)
    raise RuntimeError("unshare started nothing")


def plug(switch: int, host: int, port: str, address: str, gateway: str) -> None:
    """Connect a machine to the switch and give it its address."""
    in_network(
        switch,
        f"link add {port} type veth peer name eth0 netns {host}",
        f"link set {port} master br0 up",
    )
    # With a default route Ray finds out by itself which address is its own.
    in_network(
        host,
        f"addr add {address}/24 dev eth0",
        "link set eth0 up",
        "link set lo up",
        f"route add default via {gateway}",
    )


def in_network(pid: int, *commands: str) -> None:
    """Run `ip` commands in the network of a process."""
    for command in commands:
        execute(*inside(pid, "-n"), "ip", *command.split())


def inside(pid: int, *namespaces: str) -> list[str]:
    """Build the prefix that runs a command in namespaces (nsenter's options) of a process."""
    return ["nsenter", "--target", str(pid), *namespaces]


def execute(*command: str) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def die_with_parent() -> None:
    """For ``preexec_fn``: end a process by SIGKILL as soon as this one ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
