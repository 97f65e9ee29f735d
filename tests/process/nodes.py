"""Nodes of one cluster on this machine: network, UTS and mount namespaces, joined by a bridge.

    fabric namespace       bridge br0  10.77.0.1 fd77::1 (router), 10.77.0.53 fd77::53 (DNS)
      node namespaces      eth0        10.77.0.11 fd77::11, 10.77.0.12 fd77::12, ...

A node has what a pod has: its own host name, /etc/hosts, /etc/resolv.conf with cluster search
domains and `ndots:5`, a small /dev with the termination log bind-mounted into it, a sysfs of its
own network namespace, an empty /run (so that no name service cache of the machine answers).

No namespace has a name. Each lives as long as a holder process that ends with its standard input, a
pipe from this process; what is started in a node gets SIGKILL when this process dies. So nothing
survives an interruption, not even by SIGKILL, and there is no state to clean up by hand. Only
iproute2, util-linux and coreutils are used; root is needed.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from tests.process.command import base_environment, entry_command
from tests.process.dns import NameServer

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

T = TypeVar("T")

PROGRAMS = ("ip", "iptables", "unshare", "nsenter", "setpriv", "env")
CLONE_NEWNET = 0x40000000
DOMAIN = "svc.cluster.local"
NAMESPACE = "default"
NAME_SERVER_ADDRESSES = ("10.77.0.53", "fd77::53")
# Routed by the fabric to nowhere: packets vanish, as behind a firewall that drops.
DROPPED_ADDRESS = "10.66.0.9"
# Answered by the fabric with ICMP host unreachable.
UNREACHABLE_ADDRESS = "10.67.0.9"

FABRIC_SCRIPT = """
set -e
for conf in all default; do
    echo 0 > /proc/sys/net/ipv6/conf/$conf/accept_dad
done
ip -batch - <<'END'
link set lo up
link add br0 address 02:00:00:00:00:01 type bridge
addr add 10.77.0.1/24 dev br0
addr add 10.77.0.53/24 dev br0
addr add fd77::1/64 dev br0 nodad
addr add fd77::53/64 dev br0 nodad
link set br0 up
route add blackhole 10.66.0.0/24
route add unreachable 10.67.0.0/24
END
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
exec cat > /dev/null
"""

# $1 host name, $2 the node's directory. The second half waits until the veth pair is there.
NODE_SCRIPT = """
set -e
echo "$1" > /proc/sys/kernel/hostname
for conf in all default; do
    echo 0 > /proc/sys/net/ipv6/conf/$conf/accept_dad
done
mount -t sysfs -o ro sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
over() {
    target=$(readlink -m "$2")
    case "$target" in
        /run/*) mkdir -p "$(dirname "$target")" && : > "$target" ;;
    esac
    mount --bind "$1" "$target"
}
over "$2/resolv.conf" /etc/resolv.conf
over "$2/hosts" /etc/hosts
if [ -e /etc/nsswitch.conf ]; then over "$2/nsswitch.conf" /etc/nsswitch.conf; fi
dev="$2/dev"
mkdir "$dev"
mount -t tmpfs -o mode=755 tmpfs "$dev"
for node in null zero full random urandom tty; do
    : > "$dev/$node"
    mount --bind "/dev/$node" "$dev/$node"
done
mkdir -m 1777 "$dev/shm"
ln -s /proc/self/fd "$dev/fd"
ln -s fd/0 "$dev/stdin"
ln -s fd/1 "$dev/stdout"
ln -s fd/2 "$dev/stderr"
: > "$dev/termination-log"
mount --bind "$2/termination-log" "$dev/termination-log"
mount --move "$dev" /dev
echo isolated
read -r _
ip -batch "$2/addresses"
echo ready
exec cat > /dev/null
"""

# Touches every kernel feature that the scripts above rest on.
TRIAL_SCRIPT = """
ip link add br0 type bridge
ip link add ve0 type veth peer name ve1
ip addr add fd77::1/64 dev br0
mount -t tmpfs tmpfs /run
"""


class HarnessError(Exception):
    """The nodes themselves do not work; says nothing about the command under test."""


def missing_requirement() -> str | None:
    """Return one sentence naming what these nodes need and this machine lacks, or None."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    for program in PROGRAMS:
        if shutil.which(program) is None:
            package = {"ip": "iproute2", "iptables": "iptables"}.get(program, "util-linux and coreutils")
            return f"needs the program `{program}` ({package})"
    trial = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "sh", "-ec", TRIAL_SCRIPT],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if trial.returncode != 0:
        return (
            "needs a kernel and privileges for namespaces (network, mount, PID), veth, bridge, IPv6"
            f" ({trial.stderr.strip().splitlines()[-1:] or trial.returncode})"
        )
    return None


def in_network_of(pid: int, action: Callable[[], T]) -> T:
    """Return `action()`, run by a thread that has joined the network namespace of process `pid`.

    A socket belongs to the namespace of the thread that made it, for as long as it lives.
    Raises what `action` raises, or HarnessError if the namespace cannot be joined.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def join_and_act() -> T:
        handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(handle, CLONE_NEWNET) != 0:
                raise HarnessError(f"setns: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(handle)
        return action()

    # The thread ends with the executor, and the membership with the thread.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(join_and_act).result()


def bound_socket(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """Return a socket bound to address and port; IPv6 ones take IPv6 only."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


class Holder:
    """A process that keeps a set of namespaces alive until its standard input closes."""

    def __init__(self, options: Sequence[str], script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            ["unshare", *options, "sh", "-c", script, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """Its process id, which is also the handle for its namespaces."""
        return self._process.pid

    def expect(self, word: str) -> None:
        """Wait until the script says `word`; raises HarnessError with its complaint otherwise."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline().decode().strip()
        if line != word:
            self._process.kill()
            complaint = self._process.stderr.read().decode("utf-8", "replace")
            raise HarnessError(f"namespace set-up did not reach {word!r}: {complaint}")

    def tell(self, word: str) -> None:
        """Give the script its next line."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process; the namespaces go with it. Harmless a second time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


@dataclass(frozen=True)
class Line:
    """One line that a process wrote. `at_s` is `time.monotonic()` when it was read."""

    at_s: float
    stream: str
    text: str


@dataclass(frozen=True)
class Visit:
    """One TCP connection that a listener accepted; closed by FIN (orderly) or by RST."""

    at_s: float
    peer: str
    orderly: bool
    received_bytes: int


class Launch:
    """A started command: what it writes, with times, its end, and the stand-in's record."""

    def __init__(self, process: subprocess.Popen[bytes], record_path: Path) -> None:
        self.process = process
        self.record_path = record_path
        self.started_s = time.monotonic()
        self.lines: list[Line] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        self._open_streams = len(self._readers)
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: Any) -> None:
        for raw in stream:
            text = raw.decode("utf-8", "backslashreplace").rstrip("\n")
            with self._changed:
                self.lines.append(Line(time.monotonic(), name, text))
                self._changed.notify_all()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()

    def text(self, stream: str = "stderr") -> str:
        """Return everything written to one stream so far."""
        with self._changed:
            return "\n".join(line.text for line in self.lines if line.stream == stream)

    def account(self) -> str:
        """Return the whole output with seconds since the start, for a failed assertion."""
        with self._changed:
            body = "\n".join(
                f"  {line.at_s - self.started_s:7.3f} {line.stream}: {line.text}" for line in self.lines
            )
        return f"\nexit {self.process.poll()}, output:\n{body or '  (none)'}"

    def wait_for_line(self, pattern: str, timeout_s: float) -> Line:
        """Return the first line that matches (regular expression, any case, anywhere in it)."""
        wanted = re.compile(pattern, re.IGNORECASE)
        end_s = time.monotonic() + timeout_s
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if wanted.search(line.text):
                        return line
                seen = len(self.lines)
                left_s = end_s - time.monotonic()
                if left_s <= 0 or self._open_streams == 0:
                    break
                self._changed.wait(left_s)
        raise AssertionError(f"no line with {pattern!r} in {timeout_s} s{self.account()}")

    def wait_exit(self, timeout_s: float) -> int:
        """Return the exit code as a container runtime shows it: 128+N after signal N."""
        try:
            code = self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s{self.account()}") from None
        for reader in self._readers:
            reader.join(timeout=2)
        return code if code >= 0 else 128 - code

    def wait_record(self, timeout_s: float) -> dict[str, Any]:
        """Return what the stand-in recorded about its start."""
        end_s = time.monotonic() + timeout_s
        while not self.record_path.exists():
            if time.monotonic() > end_s:
                raise AssertionError(f"SGLang was not started in {timeout_s} s{self.account()}")
            if self.process.poll() is not None and not self.record_path.exists():
                raise AssertionError(f"ended without starting SGLang{self.account()}")
            time.sleep(0.01)
        loaded = json.loads(self.record_path.read_text(encoding="ascii"))
        assert isinstance(loaded, dict)
        return loaded

    def assert_not_started(self) -> None:
        """Fail if SGLang was started."""
        assert not self.record_path.exists(), f"SGLang was started{self.account()}"

    def still_waiting(self, for_s: float) -> None:
        """Fail if the command ends or starts SGLang within `for_s`."""
        end_s = time.monotonic() + for_s
        while time.monotonic() < end_s:
            assert self.process.poll() is None, f"ended early{self.account()}"
            self.assert_not_started()
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> float:
        """Send a signal to the process that was started; return the time."""
        at_s = time.monotonic()
        self.process.send_signal(number)
        return at_s

    def send_to(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process of this launch, as it is called outside its namespace."""
        os.kill(pid, number)

    def first_in_pid_namespace(self, timeout_s: float = 5.0) -> int:
        """Return the process, as numbered here, that is PID 1 in a launch with `pid_1=True`."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            children = psutil.Process(self.process.pid).children()
            if children:
                return int(children[0].pid)
            time.sleep(0.01)
        raise AssertionError(f"no process in the PID namespace{self.account()}")

    def close(self) -> None:
        """Kill the process if it still runs, and let go of its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(timeout=2)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Listener:
    """A TCP port on a node that accepts, and keeps each connection until its peer closes it."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._lock = threading.Lock()
        self._visits: list[Visit] = []
        self._accepted = 0
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._accepted += 1
            threading.Thread(target=self._attend, args=(connection, peer[0]), daemon=True).start()

    def _attend(self, connection: socket.socket, peer: str) -> None:
        at_s = time.monotonic()
        received_bytes = 0
        orderly = True
        connection.settimeout(30)
        try:
            while chunk := connection.recv(4096):
                received_bytes += len(chunk)
        except OSError:
            orderly = False
        finally:
            connection.close()
        with self._lock:
            self._visits.append(Visit(at_s, peer, orderly, received_bytes))

    def visits(self, timeout_s: float = 2.0, *, least: int = 0) -> list[Visit]:
        """Return all connections so far, once there are ``least`` and each of them was closed by its peer.

        The kernel completes a connection before the thread here accepts it: on a busy machine the peer can
        be gone by then.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            with self._lock:
                if len(self._visits) == self._accepted >= least:
                    return list(self._visits)
                open_count = self._accepted - len(self._visits)
                seen = f"{self._accepted} connections, {open_count} of them still held open"
            assert time.monotonic() < end_s, seen
            time.sleep(0.01)

    def close(self) -> None:
        """Free the port. Harmless a second time."""
        # shutdown() wakes the accepting thread; close() alone leaves it, and the port, in accept().
        if not self._closed:
            self._closed = True
            self._listening.shutdown(socket.SHUT_RDWR)
            self._thread.join(timeout=2)
            self._listening.close()


class Node:
    """One node. Made by `Cluster.add_node`."""

    def __init__(
        self,
        hostname: str,
        *,
        ordinal: int,
        families: Sequence[int],
        directory: Path,
        fabric_pid: int,
        sglang: Path | None,
    ) -> None:
        self.hostname = hostname
        last = 10 + ordinal if ordinal < 43 else 11 + ordinal  # .53 is the DNS server
        self.ipv4 = f"10.77.0.{last}" if 4 in families else None
        self.ipv6 = f"fd77::{last}" if 6 in families else None
        self.directory = directory
        self._fabric_pid = fabric_pid
        self._ordinal = ordinal
        self._interfaces = 1
        self._launches: list[Launch] = []
        self._listeners: list[Listener] = []
        directory.mkdir()
        self._environment = base_environment(directory, sglang=sglang) | {"HOSTNAME": hostname}
        self._write_files()
        self._holder = Holder(
            ["--net", "--uts", "--mount", "--propagation", "private"],
            NODE_SCRIPT, hostname, str(directory),
        )  # fmt: skip
        try:
            self._holder.expect("isolated")
            ip_batch(
                fabric_pid,
                f"link add node{ordinal} type veth peer name eth0 netns {self.pid}",
                f"link set node{ordinal} master br0 up",
            )
            self._holder.tell("joined")
            self._holder.expect("ready")
        except BaseException:
            self._holder.close()
            raise

    def _write_files(self) -> None:
        own = self.ipv4 or self.ipv6
        servers = [
            server for server in NAME_SERVER_ADDRESSES if (self.ipv4 if "." in server else self.ipv6) is not None
        ]
        files = {
            "resolv.conf": [
                *(f"nameserver {server}" for server in servers[:1]),
                f"search {NAMESPACE}.{DOMAIN} {DOMAIN} cluster.local",
                "options ndots:5",
            ],
            "hosts": [
                "# Kubernetes-managed hosts file.",
                "127.0.0.1\tlocalhost",
                "::1\tlocalhost ip6-localhost ip6-loopback",
                f"{own}\t{self.hostname}.sglang.{NAMESPACE}.{DOMAIN}\t{self.hostname}",
            ],
            "nsswitch.conf": ["passwd: files", "group: files", "hosts: files dns"],
            "addresses": [
                "link set lo up",
                *([f"addr add {self.ipv4}/24 dev eth0"] if self.ipv4 else []),
                *([f"addr add {self.ipv6}/64 dev eth0 nodad"] if self.ipv6 else []),
                "link set eth0 up",
                *(["route add default via 10.77.0.1"] if self.ipv4 else []),
                *(["route add default via fd77::1"] if self.ipv6 else []),
            ],
        }
        for name, lines in files.items():
            (self.directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.directory / "termination-log").touch(mode=0o666)

    @property
    def pid(self) -> int:
        """The holder's process id, the handle for the node's namespaces."""
        return self._holder.pid

    @property
    def address(self) -> str:
        """The node's address: IPv4 if it has one, else IPv6."""
        own = self.ipv4 or self.ipv6
        assert own is not None
        return own

    def termination_log(self) -> bytes:
        """Return what was written to /dev/termination-log."""
        return (self.directory / "termination-log").read_bytes()

    def ip(self, *lines: str) -> None:
        """Run lines of `ip -batch` in the node's network namespace."""
        ip_batch(self.pid, *lines)

    def add_interface(self, name: str, address_with_prefix: str) -> None:
        """Plug a further interface of the node into the fabric's bridge, with this address."""
        self._interfaces += 1
        port = f"node{self._ordinal}.{self._interfaces}"
        ip_batch(
            self._fabric_pid,
            f"link add {port} type veth peer name {name} netns {self.pid}",
            f"link set {port} master br0 up",
        )
        nodad = " nodad" if ":" in address_with_prefix else ""
        self.ip(f"addr add {address_with_prefix} dev {name}{nodad}", f"link set {name} up")

    def mount_over(self, target: Path, source: Path) -> None:
        """Let `target` be `source` in the node's mount namespace, from now on."""
        subprocess.run(
            ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "mount", "--bind", source, target],
            stdin=subprocess.DEVNULL,
            check=True,
        )

    def drop_from(self, peer: str) -> None:
        """Let packets from `peer` (IPv4) vanish here, as a firewall that drops does."""
        # The route decides about replies, and source validation drops what comes in.
        self.ip(f"route add blackhole {peer}/32")

    def admit(self, peer: str) -> None:
        """Undo `drop_from`."""
        self.ip(f"route del blackhole {peer}/32")

    def reject_ephemeral_ports(self) -> None:
        """Refuse new connections to the kernel's own range of ports, as a firewall does that lets D alone through."""
        new = ("-A", "INPUT", "-i", "eth0", "-p", "tcp", "--syn", "--dport", "32768:60999")
        self.filter(*new, "-j", "REJECT", "--reject-with", "icmp-admin-prohibited")

    def reaches(self, other: Node, port: int, within_s: float = 3.0) -> bool:
        """Return whether another node takes a TCP connection from here."""

        def connect() -> bool:
            try:
                socket.create_connection((other.address, port), within_s).close()
            except OSError:
                return False
            return True

        return in_network_of(self.pid, connect)

    def filter(self, *rule: str) -> None:
        """Add a rule to the packet filter of this node."""
        subprocess.run(["nsenter", f"--net=/proc/{self.pid}/ns/net", "iptables", *rule], check=True)

    def refusals(self) -> int:
        """Return how many TCP resets the node has sent: above all, connections it refused."""
        counters = Path(f"/proc/{self.pid}/net/snmp").read_text(encoding="ascii")
        names, values = [line.split()[1:] for line in counters.splitlines() if line.startswith("Tcp:")]
        return int(values[names.index("OutRsts")])

    def wait_refusal(self, more_than: int, timeout_s: float) -> None:
        """Wait until the node has refused more than this many connections."""
        end_s = time.monotonic() + timeout_s
        while self.refusals() <= more_than:
            assert time.monotonic() < end_s, f"{self.hostname} was not asked in {timeout_s} s"
            time.sleep(0.01)

    def listen(self, port: int, address: str | None = None) -> Listener:
        """Return an accepting port of the node, on its own address unless told otherwise."""
        at = address or self.address

        def open_it() -> socket.socket:
            made = bound_socket(socket.SOCK_STREAM, at, port)
            made.listen(64)
            return made

        listener = Listener(in_network_of(self.pid, open_it))
        self._listeners.append(listener)
        return listener

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        behaviour: str = "exit:0",
        pid_1: bool = False,
        prefix: Sequence[str] = (),
        pass_descriptors: Sequence[int] = (),
        command: Sequence[str] | None = None,
    ) -> Launch:
        """Start the command in the node as the pod's container would.

        `behaviour` is what the stand-in does after its record. `prefix` are words before the
        command that exec it (such as `env --ignore-signal=HUP`). With `pid_1` it is PID 1 of a PID
        namespace of its own; else the process id here is the command's. `command` replaces the
        command under test.
        """
        record = self.directory / f"record-{len(self._launches)}.json"
        namespaces = f"/proc/{self.pid}/ns"
        isolation = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if pid_1 else []
        words = [
            "setpriv", "--pdeathsig", "KILL",
            "nsenter", f"--net={namespaces}/net", f"--uts={namespaces}/uts",
            f"--mount={namespaces}/mnt",
            *isolation,
            # Entering a mount namespace leaves one in its root.
            "env", f"--chdir={self.directory}", *prefix,
            *(command if command is not None else entry_command()), *arguments,
        ]  # fmt: skip
        process = subprocess.Popen(
            words,
            env={
                **self._environment,
                "STANDIN_RECORD": str(record),
                "STANDIN_BEHAVIOUR": behaviour,
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_descriptors,
        )
        launch = Launch(process, record)
        self._launches.append(launch)
        return launch

    def close(self) -> None:
        """End what was started here, then the node."""
        for launch in self._launches:
            launch.close()
        for listener in self._listeners:
            listener.close()
        self._holder.close()


def ip_batch(pid: int, *lines: str) -> None:
    """Run lines of `ip -batch` in the network of process `pid`; HarnessError if one fails."""
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise HarnessError(f"ip -batch: {done.stderr.strip()} (in: {'; '.join(lines)})")


class Cluster:
    """The fabric, its DNS server and its nodes; everything is gone when its `with` block ends."""

    def __init__(self, directory: Path, sglang: Path | None) -> None:
        self._directory = directory
        self._sglang = sglang
        self._stack = ExitStack()
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        try:
            fabric = Holder(["--net"], FABRIC_SCRIPT)
            self._stack.callback(fabric.close)
            fabric.expect("ready")
            self._fabric_pid = fabric.pid
            sockets = in_network_of(
                fabric.pid,
                lambda: [bound_socket(socket.SOCK_DGRAM, address, 53) for address in NAME_SERVER_ADDRESSES],
            )
            self.dns = self._stack.enter_context(NameServer(sockets))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add_node(self, hostname: str, families: Sequence[int] = (4,)) -> Node:
        """Return a new node with an address of each family (4, 6)."""
        ordinal = len(self.nodes) + 1
        node = Node(
            hostname,
            ordinal=ordinal,
            families=families,
            directory=self._directory / hostname,
            fabric_pid=self._fabric_pid,
            sglang=self._sglang,
        )
        self._stack.callback(node.close)
        self.nodes.append(node)
        return node


@contextmanager
def serving(node: Node, port: int, attend: Callable[[socket.socket], None]) -> Iterator[None]:
    """Do this with every connection to a port of a node, each in a thread; nothing is left of it afterwards."""
    family = socket.AF_INET6 if ":" in node.address else socket.AF_INET
    listening = in_network_of(node.pid, lambda: socket.create_server((node.address, port), family=family))
    opened: list[socket.socket] = []

    def run() -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            opened.append(one)
            threading.Thread(target=attend, args=(one,), daemon=True).start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in (listening, *opened):
            one.close()
