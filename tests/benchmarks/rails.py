"""A leader with any number of HCAs and GID slots, to be launched on: namespaces, a fake sysfs, real interfaces.

Every HCA has its own interface with an address, a verbs device that opens and a GID table of which four
slots are in use, so that all ports are read, decided on and used: the path of a healthy leader, which
finds its own name at once and need not wait.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.process.command import CHECKOUT
from tests.process.nodes import missing_requirement
from tests.trees import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEADER, ADDRESS = "sglang-0.sglang", "10.1.0.1"
#: Its workers are not there, so that it does not meet them.
ARGUMENTS = ("--meeting", "off", "--model-path", "/models/m")
ENVIRONMENT = {
    "LWS_LEADER_ADDRESS": LEADER,
    "LWS_GROUP_SIZE": "2",
    "LWS_WORKER_INDEX": "0",
    "SGLANG_ROCE_GPUS": "8",
    "SGLANG_ROCE_LINGER": "0",
}
#: A device node with the numbers of /dev/null opens: the stand-in for a verbs device.
_NULL = "1:3"
_NAMESPACES = ("--net", "--mount", "--propagation", "private")

# $1 the node's folder; then the command. Everything is gone when the command ends.
_ENTER = """
ip -batch "$1/links"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for node in null zero full random urandom; do
    : > "$1/dev/$node"
    mount --bind "/dev/$node" "$1/dev/$node"
done
ln -s /proc/self/fd "$1/dev/fd"
mkdir "$1/dev/infiniband"
while read -r uverbs; do
    mknod "$1/dev/infiniband/$uverbs" c 1 3
done < "$1/verbs"
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/sys" /sys
mount --move "$1/dev" /dev
shift
exec "$@"
"""


class Leader:
    """One node below ``folder``: ``hcas`` adapters with one port of ``slots`` GID slots each."""

    def __init__(self, folder: Path, hcas: int, slots: int) -> None:
        self.hcas, self.slots = hcas, slots
        self.folder = folder
        node = Node()
        links = ["link set lo up"]
        for name in ("eth0", *(f"net{number}" for number in range(hcas))):
            peer = f"{name}p"
            node.netdev(name).netdev(peer)
            links += [f"link add {name} type veth peer name {peer}", f"link set {peer} up", f"link set {name} up"]
        links += [f"addr add {ADDRESS}/24 dev eth0", "route add default dev eth0"]
        for number in range(hcas):
            netdev, address = f"net{number}", f"10.77.{number}.1"
            links.append(f"addr add {address}/24 dev {netdev}")
            hca = node.hca(f"mlx5_{number}", pci=f"0000:{0x10 + number:02x}:00.0", netdevs=(netdev,))
            hca.port(gbps=400, slots=slots).pair("fe80::ff:fe00:1", netdev).pair(address, netdev)
        for path in node.files:
            if "/infiniband_verbs/" in path and path.endswith("/dev"):
                node.files[path] = f"{_NULL}\n"
        node.write(folder)
        (folder / "dev").mkdir()
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {LEADER}\n", encoding="utf-8")
        (folder / "links").write_text("\n".join(links) + "\n", encoding="utf-8")
        (folder / "verbs").write_text("".join(f"uverbs{number}\n" for number in range(hcas)), encoding="utf-8")

    @property
    def gids(self) -> int:
        """How many slots there are in all."""
        return self.hcas * self.slots

    def run(self, command: Sequence[str], environment: dict[str, str], said: str = "") -> str:
        """Return what ``command`` writes to stdout on this node. Raises RuntimeError if it fails."""
        done = subprocess.run(
            ["unshare", *_NAMESPACES, "sh", "-ec", _ENTER, "sh", str(self.folder), *command],
            input=said, env=environment, cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout


def standin(folder: Path) -> Path:
    """Install a stand-in `sglang` that prints the peak memory of its process; return its PYTHONPATH."""
    package = folder / "standin" / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "launch_server.py").write_text(PRINT_PEAK_KIB, encoding="utf-8")
    (package.parent / "sglang-0.5.10.dist-info").mkdir()
    return package.parent


#: The kernel keeps the peak of a process across its exec.
PRINT_PEAK_KIB = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"


def environment(*python_path: Path) -> dict[str, str]:
    """Return the environment of the leader's container."""
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    paths = os.pathsep.join(str(path) for path in python_path)
    return {**kept, **ENVIRONMENT, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": paths}


def missing_here() -> str | None:
    """Return one sentence if this machine lacks what a start on a `Leader` needs."""
    lacking = missing_requirement()
    if lacking:
        return lacking
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        return "needs libibverbs.so.1 (Debian: libibverbs1), without which a launch with HCAs is refused"
    return None


class Unavailable(Exception):
    """What one sentence names is missing here."""


@contextmanager
def workplace() -> Iterator[tuple[Path, Path, Path]]:
    """Give a folder, the installed command and the PYTHONPATH of a stand-in `sglang`. Raises Unavailable."""
    lacking = missing_here()
    if lacking:
        raise Unavailable(lacking)
    with tempfile.TemporaryDirectory(prefix="sglang-roce-benchmark-") as directory:
        folder = Path(directory)
        yield folder, _installed(folder), standin(folder)


def _installed(folder: Path) -> Path:
    """Return an installed `sglang-roce-entry`: ``SGLANG_ROCE_ENTRY``, else in a new environment in ``folder``."""
    given = os.environ.get("SGLANG_ROCE_ENTRY")
    if given:
        return Path(given)
    made = folder / "installed"
    for command in (
        [sys.executable, "-m", "venv", str(made)],
        [str(made / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", str(CHECKOUT)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(
                f"needs to install the package, which fails: {done.stderr.strip().splitlines()[-1:]}"
            )
    return made / "bin" / "sglang-roce-entry"
