"""A node with soft-RoCE HCAs, from the inside: everything here runs as root in the guest, never on the host.

Only the standard library is used, and nothing of the package under test: the GID tables that the scenarios
report are read by code of their own.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INFINIBAND = Path("/sys/class/infiniband")
OUT = Path("/out")
COMMAND_DEADLINE_S = 90.0
# A table has 1,024 slots and no scenario comes near the 64th.
SLOTS = 64
PINGPONG_PORT = 19000
DEFAULT_RULES = ("rule add pref 32766 lookup main", "rule add pref 32767 lookup default")


def run(*command: str, check: bool = True, stdin: str | None = None, deadline_s: float = 60) -> str:
    """Run a program and return its output. A failure is an error that shows what the program said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=deadline_s, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}: {done.stderr.strip()} {stdin or ''}")
    return done.stdout


def ip(*lines: str, family: int | None = None, netns: str | None = None) -> None:
    """Run several `ip` commands in one process (a process costs 0.1 s under TCG)."""
    options = ["-6"] if family == 6 else []
    options += ["-netns", netns] if netns else []
    run("ip", *options, "-batch", "-", stdin="\n".join(lines) + "\n")


def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Wait for a condition. Raises TimeoutError with `what` if it does not come true."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s} s")
        time.sleep(0.05)


def set_sysctl(path: str, value: str) -> None:
    Path("/proc/sys", path).write_text(value)


def gid_table(device: str) -> dict[str, dict[str, str]]:
    """Return the occupied slots of port 1: index (as JSON has it) to address, type and netdev."""
    port = INFINIBAND / device / "ports" / "1"
    rows = {}
    for index in range(SLOTS):
        gid = ipaddress.IPv6Address((port / "gids" / str(index)).read_text().strip())
        if int(gid):
            rows[str(index)] = {
                "address": str(gid.ipv4_mapped or gid),
                "type": (port / "gid_attrs" / "types" / str(index)).read_text().strip(),
                "netdev": (port / "gid_attrs" / "ndevs" / str(index)).read_text().strip(),
            }
    return rows


def add_hca(device: str, netdev: str, *addresses: str, up: bool = True) -> None:
    """Add a soft-RoCE HCA over a netdev, then the addresses in this order."""
    if up:
        ip(f"link set {netdev} up")
    run("rdma", "link", "add", device, "type", "rxe", "netdev", netdev)
    add_addresses(netdev, *addresses, device=device)


def add_addresses(netdev: str, *addresses: str, device: str) -> None:
    """Add addresses and wait for each one's GID: the kernel fills the table later, on a work queue."""
    for address in addresses:
        plain = address.partition("/")[0]
        ip(f"addr add {address} dev {netdev}" + (" nodad" if ":" in plain else ""))
        until(lambda plain=plain: _has(device, plain), f"GID of {plain} on {device}")  # type: ignore[misc]


def remove_address(netdev: str, address: str, device: str) -> None:
    ip(f"addr del {address} dev {netdev}")
    plain = address.partition("/")[0]
    until(lambda: not _has(device, plain), f"GID of {plain} gone from {device}")


def _has(device: str, address: str) -> bool:
    try:
        rows = gid_table(device).values()
    except OSError:  # a slot that became empty between its GID and its type
        return False
    return any(row["address"] == address and row["type"] == "RoCE v2" for row in rows)


def verbs_devices() -> dict[str, str]:
    """Return what opening each verbs device read-write says in this process: "ok" or the errno's name."""
    answers = {}
    for node in sorted(Path("/dev/infiniband").glob("uverbs*")):
        try:
            os.close(os.open(node, os.O_RDWR))
            answers[node.name] = "ok"
        except OSError as error:
            answers[node.name] = errno.errorcode[error.errno or 0]
    return answers


class KernelEvents:
    """What the kernel announces about devices from now on: netlink(7), NETLINK_KOBJECT_UEVENT."""

    PROTOCOL, KERNELS_GROUP = 15, 1

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, self.PROTOCOL)
        self._socket.bind((0, self.KERNELS_GROUP))

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[dict[str, str]]:
        """Return the events since the last call: ACTION, SUBSYSTEM, DEVPATH and more."""
        events: list[dict[str, str]] = []
        while True:
            try:
                message = self._socket.recv(1 << 16)
            except BlockingIOError:
                return events
            pairs = (field.decode().partition("=") for field in message.split(b"\0")[1:] if field)
            events.append({name: value for name, _, value in pairs})


def clean() -> None:
    """Take everything back that a scenario made; the cards keep nothing but their names."""
    for device in os.listdir(INFINIBAND):
        run("rdma", "link", "delete", device, check=False)
    for line in run("ip", "netns", "list").splitlines():
        run("ip", "netns", "delete", line.split()[0])
    for directory in Path("/sys/class/net").iterdir():
        if directory.is_dir() and directory.name != "lo" and not (directory / "device").exists():
            run("ip", "link", "delete", directory.name, check=False)  # veth ends go in pairs
    # A network namespace is taken down later, by a work queue; a bond gives its cards their addresses back.
    until(lambda: len(_cards()) == number_of_cards(), "all network cards are back")
    for number, name in _cards().items():
        ip(f"link set {name} down", f"addr flush dev {name}")
        if name != f"eth{number}":
            ip(f"link set {name} name eth{number}")
    for family in (4, 6):
        run("ip", f"-{family}", "rule", "flush")  # all but priority 0, which the routed fabric removes
        if "lookup local" not in run("ip", f"-{family}", "rule"):
            ip("rule add pref 0 lookup local", family=family)
        ip(*DEFAULT_RULES[: 1 if family == 6 else 2], family=family)
        for table in ("100", "101", "102"):
            run("ip", f"-{family}", "route", "flush", "table", table, check=False)
    run("rdma", "system", "set", "netns", "shared")


def number_of_cards() -> int:
    return len(list(Path("/sys/bus/virtio/drivers/virtio_net").glob("virtio*")))


def _cards() -> dict[int, str]:
    # By number: the last byte of the address that QEMU gave them tells it.
    cards = {}
    for name in os.listdir("/sys/class/net"):
        directory = Path("/sys/class/net") / name
        if (directory / "device").exists():
            cards[int((directory / "address").read_text().strip()[-2:], 16) - 16] = name
    return cards


@dataclass(frozen=True)
class Answer:
    """What one run of the installed command said."""

    status: int
    stdout: str
    stderr: str
    wall_s: float

    def plan(self) -> dict[str, Any]:
        """Return the plan of a `--dry-run=json`, with `status`, `stderr` and `wall_s` beside its own keys."""
        try:
            plan: dict[str, Any] = json.loads(self.stdout)
        except ValueError as error:
            raise RuntimeError(
                f"status {self.status}, no JSON on stdout: {self.stdout!r} {self.stderr}"
            ) from error
        return {**plan, "status": self.status, "stderr": self.stderr, "wall_s": self.wall_s}


@dataclass(frozen=True)
class Command:
    """The installed `sglang-roce-entry`, with NCCL's version and SGLang as a container would have them."""

    path: Path

    def environment(self, nccl: str | None = "2.28.9", **variables: str) -> dict[str, str]:
        """Return a pod's environment. A distribution's directory is enough to tell NCCL's version."""
        search_path = [str(OUT / "standin")]
        if nccl is not None:
            (OUT / nccl / f"nvidia_nccl_cu12-{nccl}.dist-info").mkdir(parents=True, exist_ok=True)
            metadata = f"Metadata-Version: 2.1\nName: nvidia-nccl-cu12\nVersion: {nccl}\n"
            (OUT / nccl / f"nvidia_nccl_cu12-{nccl}.dist-info" / "METADATA").write_text(metadata)
            search_path.append(str(OUT / nccl))
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG")}
        return {**kept, "PYTHONPATH": os.pathsep.join(search_path), "PYTHONDONTWRITEBYTECODE": "1", **variables}

    def __call__(
        self, *options: str, inside: Sequence[str] = (), nccl: str | None = "2.28.9", **variables: str
    ) -> Answer:
        """Run it to its end. `inside` is put in front of it, for example `ip netns exec pod`."""
        started = time.monotonic()
        done = subprocess.run(
            [*inside, str(self.path), *options],
            env=self.environment(nccl, **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def dry_run(
        self, *options: str, inside: Sequence[str] = (), nccl: str | None = "2.28.9", **variables: str
    ) -> dict[str, Any]:
        """Return the plan of `--dry-run=json`: what would be launched here and now."""
        return self(*options, "--dry-run=json", inside=inside, nccl=nccl, **variables).plan()

    def start(self, *arguments: str, log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start it and do not wait; stderr goes to `log`."""
        with log.open("wb") as stderr:
            return subprocess.Popen(
                [str(self.path), *arguments],
                env=self.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )


STANDIN = """\
import json, os, sys, time
record = {"argv": sys.argv[1:], "environ": dict(os.environ), "at_s": time.monotonic()}
with open(os.environ["STANDIN_RECORD"] + ".part", "w") as file:
    json.dump(record, file)
os.rename(os.environ["STANDIN_RECORD"] + ".part", os.environ["STANDIN_RECORD"])
"""


def write_standin_sglang() -> None:
    """Write a package `sglang` whose server records how it was started, and ends."""
    package = OUT / "standin" / "sglang"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "launch_server.py").write_text(STANDIN)


def carries_traffic(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Return whether RDMA messages pass between two (device, GID index): both ends of ibv_rc_pingpong agree."""
    program = ["ibv_rc_pingpong", "-p", str(PINGPONG_PORT), "-n", "10", "-s", "512"]
    quiet: Mapping[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    listening = subprocess.Popen([*program, "-d", server[0], "-g", str(server[1])], **quiet)
    try:
        until(lambda: listening.poll() is not None or is_listening(PINGPONG_PORT), "ibv_rc_pingpong listens")
        calling = [*program, "-d", client[0], "-g", str(client[1]), "127.0.0.1"]
        try:
            status = subprocess.run(calling, check=False, timeout=20, **quiet).returncode
            return listening.wait(3) == 0 and status == 0
        except subprocess.TimeoutExpired:
            return False
    finally:
        if listening.poll() is None:
            listening.kill()
        listening.wait()


def is_listening(port: int) -> bool:
    """Return whether a TCP port of this network namespace is listened on."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                return True
    return False
