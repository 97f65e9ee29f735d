"""podman in namespaces of its own: nothing of a test is left on the machine, nothing of it is seen.

A shell is PID 1 of a new mount, network and PID namespace and every command is run beside it with
``nsenter``. When its standard input closes - also because this process died - it ends every container,
conmon and dnsmasq, removes their control groups, the one thing that no namespace holds, and ends too:
images, mounts, bridges and netfilter rules go with it.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DNS_ADDRESS = "10.89.0.53"
DOMAIN = "default.svc.cluster.local"
#: What stands in /etc/resolv.conf of a pod of the namespace "default".
POD_DNS = (
    f"--dns={DNS_ADDRESS}",
    f"--dns-search={DOMAIN}",
    "--dns-search=svc.cluster.local",
    "--dns-search=cluster.local",
    "--dns-opt=ndots:5",
)

PROGRAMS = (
    ("podman", "podman"),
    ("crun", "crun"),
    ("dnsmasq", "dnsmasq-base"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("dpkg-query", "dpkg"),
)
#: netavark is no command of its own: podman looks for it here.
NETAVARK = (Path("/usr/lib/podman/netavark"), Path("/usr/libexec/podman/netavark"))

_UNSHARE = (
    *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private"),
)
# bash, not sh: as PID 1 it also reaps the children that conmon leaves to it.
_SET_UP = """
set -eu
# crun refuses the hybrid layout: version 2 mounted below version 1. Containers stay in the memory
# group of this job when the runtime does not see one. Both only in this mount namespace.
for hidden in unified memory; do
  if [ -d /sys/fs/cgroup/$hidden ]; then mount -t tmpfs tmpfs /sys/fs/cgroup/$hidden; fi
done
resolver=$(readlink -f /etc/resolv.conf || echo /etc/resolv.conf)
mount -t tmpfs tmpfs /run
case $resolver in /run/*) mkdir -p "${resolver%/*}"; : > "$resolver" ;; esac
mount --bind resolv.conf "$resolver"
mkdir -p /run/netns /run/lock /run/var/upper /run/var/work
# The engine writes to both: its caches and its locks.
mount -t overlay overlay -o lowerdir=/var/lib,upperdir=/run/var/upper,workdir=/run/var/work /var/lib
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
ip address add DNS_ADDRESS/32 dev lo
dnsmasq --conf-file=dnsmasq.conf
echo ready
while read -r _; do :; done
set +e
kill -KILL -1
for left in /sys/fs/cgroup/CGROUP /sys/fs/cgroup/*/CGROUP; do
  # A group can be removed once its last process is gone.
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -d "$left" ] || find "$left" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.2
  done
done
"""


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code (128+n for a container killed by signal n) and output."""

    code: int
    out: str
    log: str


class NoNamespacesError(Exception):
    """This machine does not let us make them; its text is what the system said."""


class Enclosure:
    """The namespaces, the engine's configuration and the DNS server of one test session."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        #: The control group, below which containers that need one get theirs.
        self.cgroup = f"sglang-roce-entry-{os.getpid()}"
        self._records = scratch / "dns"
        for directory in (self._records, scratch / "networks", scratch / "tmp"):
            directory.mkdir(parents=True)
        self._write_configuration()
        script = _SET_UP.replace("DNS_ADDRESS", DNS_ADDRESS).replace("CGROUP", self.cgroup)
        with (scratch / "shell.log").open("w") as log:
            self._shell = subprocess.Popen(
                [*_UNSHARE, "bash", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=scratch,
                start_new_session=True,  # an interrupt at the terminal is for the tests
            )
        assert self._shell.stdout is not None
        with self._shell.stdout as answer:
            if answer.readline() != "ready\n":
                text = (scratch / "shell.log").read_text()
                raise NoNamespacesError(text.strip())
        children = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text()
        target = children.split()[0]
        self._enter = ["nsenter", f"--target={target}", "--mount", "--net", "--pid"]

    def _write_configuration(self) -> None:
        scratch = self.scratch
        # Rootful podman asks for more descriptors than the hard limit, and to raise that takes
        # CAP_SYS_RESOURCE.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.ulimits = (f"nofile={files}:{files}", "nproc=4096:4096")
        # Images on the tmpfs of /run: they are gone with it, and it spares the disk half a gigabyte.
        (scratch / "storage.conf").write_text(
            '[storage]\ndriver = "overlay"\ngraphroot = "/run/store"\nrunroot = "/run/containers"\n'
        )
        (scratch / "containers.conf").write_text(
            "[containers]\n"
            'cgroups = "disabled"\nlog_driver = "k8s-file"\n'
            f'default_ulimits = ["{self.ulimits[0]}", "{self.ulimits[1]}"]\n'
            "[engine]\n"
            'cgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "crun"\n'
            'pull_policy = "never"\n'
            "[network]\n"
            f'network_backend = "netavark"\nnetwork_config_dir = "{scratch}/networks"\n'
        )
        # address=/#/ answers every unknown name with NXDOMAIN; hostsdir is watched.
        (scratch / "dnsmasq.conf").write_text(
            f"no-resolv\nno-hosts\nbind-interfaces\nlisten-address={DNS_ADDRESS}\nuser=root\n"
            f"pid-file=/run/dnsmasq.pid\nhostsdir={self._records}\naddress=/#/\n"
        )
        (scratch / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\n")

    @property
    def with_cgroups(self) -> tuple[str, ...]:
        """Return the options of a container that gets control groups, among them the devices'."""
        return ("--cgroups=enabled", f"--cgroup-parent=/{self.cgroup}")

    def publish(self, name: str, address: str) -> None:
        """Let the cluster's DNS know ``name`` (below ``DOMAIN``) from now on."""
        draft = self.scratch / "record"
        draft.write_text(f"{address} {name}.{DOMAIN}\n")
        # Moved, so that the server never reads half a line.
        draft.rename(self._records / name.replace(".", "-"))

    def run(self, *command: str, timeout_s: float = 120.0) -> Finished:
        """Run a command inside and return how it ended."""
        # CONTAINER_HOST, BUILDAH_ISOLATION and the like would lead to another engine or set-up.
        inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environment = {
            **inherited,
            "CONTAINERS_CONF": f"{self.scratch}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.scratch}/storage.conf",
            "TMPDIR": f"{self.scratch}/tmp",
        }
        done = subprocess.run(
            [*self._enter, *command],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=environment,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def succeed(self, *command: str, timeout_s: float = 120.0) -> str:
        """Run a command that must work and return its standard output, stripped."""
        done = self.run(*command, timeout_s=timeout_s)
        assert done.code == 0, f"{shlex.join(command)}: exit {done.code}\n{done.log}"
        return done.out.strip()

    def build(self, context: Path, tag: str, dockerfile: Path, *options: str) -> Finished:
        """Build an image without any network."""
        return self.run(
            *("podman", "build", "--network=none", "--tag", tag, "--file", str(dockerfile)),
            *(*options, str(context)),
            timeout_s=300.0,
        )

    def start(self, image: str, arguments: Sequence[str], *options: str) -> Container:
        """Start a container in the background."""
        command = ("podman", "run", "--detach", *options, image, *arguments)
        return Container(self, self.succeed(*command))

    def run_container(self, image: str, arguments: Sequence[str], *options: str) -> Finished:
        """Run a container to its end, without a network unless the options name one."""
        network = () if any(o.startswith("--network") for o in options) else ("--network=none",)
        # Its own limit, because a client that is given up leaves the container behind.
        patience = "--timeout=90"
        return self.run("podman", "run", "--rm", patience, *network, *options, image, *arguments)

    def close(self) -> None:
        """End the namespaces, all that runs in them, and what they hold."""
        self._shell.communicate(timeout=60)  # closes its standard input
        shutil.rmtree(self.scratch)


class Container:
    """A container that was started."""

    def __init__(self, enclosure: Enclosure, identifier: str) -> None:
        self._enclosure = enclosure
        self.identifier = identifier

    def log(self) -> str:
        """Return its standard output and standard error so far, in the order of their lines."""
        done = self._enclosure.run("sh", "-c", f"exec podman logs {self.identifier} 2>&1")
        return done.out

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Return the log once it contains ``text``; fail if it does not come."""
        deadline = time.monotonic() + timeout_s
        while text not in (log := self.log()):
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s} s:\n{log}"
            time.sleep(0.2)
        return log

    def stop(self, grace_s: int = 20) -> float:
        """Send SIGTERM, after ``grace_s`` SIGKILL; return the seconds until it was gone."""
        begun = time.monotonic()
        self._enclosure.succeed("podman", "stop", f"--time={grace_s}", self.identifier)
        return time.monotonic() - begun

    def signal(self, name: str) -> None:
        """Send a signal to its PID 1."""
        self._enclosure.succeed("podman", "kill", f"--signal={name}", self.identifier)

    def exit_code(self, timeout_s: float = 60.0) -> int:
        """Wait until it has ended and return its exit code."""
        return int(self._enclosure.succeed("podman", "wait", self.identifier, timeout_s=timeout_s))

    def remove(self) -> None:
        """Remove it, running or not."""
        self._enclosure.succeed("podman", "rm", "--force", "--time=0", self.identifier)
