"""Two nodes on which the installed command becomes a real SGLang server, on the CPU, TP 2 over both."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.process.group import LEADER_RECORD, lws
from tests.process.nodes import in_network_of
from tests.sglang.releases import SERVER

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence

    from tests.process.nodes import Cluster, Launch, Node
    from tests.sglang.environment import Environment

D = 20000
HTTP_PORT = 30000
#: The start takes 25 s on two quiet cores and two minutes beside other work. A process that ends, ends the wait.
SERVES_S = 480.0
ENDS_S = 180.0
ANSWERS_S = 60.0
TAIL_LINES = 40
LISTEN = "0A"  # the state in /proc/net/tcp

# What a CPU without a GPU beside it needs, and what keeps the server small. The rest is the command's.
ARGUMENTS = (
    "--tp", "2", "--device", "cpu", "--attention-backend", "torch_native", "--mem-fraction-static", "0.3",
    "--max-total-tokens", "2048", "--context-length", "256", "--disable-overlap-schedule",
    "--disable-radix-cache", "--skip-server-warmup",
)  # fmt: skip


def tail(launch: Launch) -> str:
    """Return how a launch stands and the end of what it wrote."""
    lines = launch.account().splitlines()
    return "\n".join([*lines[:2], "  ...", *lines[2:][-TAIL_LINES:]])


def request(node: Node, path: str, body: Mapping[str, Any] | None = None) -> tuple[int | None, str]:
    """Ask the node's server on the node's own address, as a kubelet does; None: nobody answers."""

    def ask() -> tuple[int | None, str]:
        connection = http.client.HTTPConnection(node.address, HTTP_PORT, timeout=ANSWERS_S)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return None, ""
        finally:
            connection.close()

    return in_network_of(node.pid, ask)


def listens(node: Node) -> set[int]:
    """Return the TCP ports on which something listens in the node, without touching them."""
    rows = []
    for name in ("tcp", "tcp6"):
        rows += Path(f"/proc/{node.pid}/net/{name}").read_text(encoding="ascii").splitlines()[1:]
    fields = [row.split() for row in rows]
    return {int(field[1].rpartition(":")[2], 16) for field in fields if field[3] == LISTEN}


@dataclass
class Member:
    """A node of the group with its server, which is PID 1 there as in a container."""

    node: Node
    launch: Launch

    @property
    def health(self) -> int | None:
        """Return the status of /health, None while nobody answers."""
        return request(self.node, "/health")[0]

    @property
    def environment(self) -> dict[str, str]:
        """Return what the command was started with, or what SGLang got once it is SGLang."""
        block = Path(f"/proc/{self.launch.first_in_pid_namespace()}/environ").read_bytes()
        return dict(entry.split("=", 1) for entry in os.fsdecode(block).split("\0") if entry)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the node's PID 1."""
        os.kill(self.launch.first_in_pid_namespace(), number)


class Group:
    """Leader and worker. Nothing starts by itself, and the leader's name is nowhere at first."""

    def __init__(
        self,
        cluster: Cluster,
        environment: Environment,
        entry: Path,
        *arguments: str,
        family: int = 4,
        options: Sequence[str] = (),
        beside: Sequence[str] = (),
    ) -> None:
        self._cluster = cluster
        self._nodes = [cluster.add_node(name, (family,)) for name in ("sglang-0", "sglang-0-1")]
        model = environment.folders["model"]
        ours = (str(entry), *options, "--rdma", "off")
        self._command = [*ours, "--model-path", str(model), *ARGUMENTS, *arguments]
        first = (entry.parents[1], *(environment.folders[name] for name in beside))
        # One core for each rank of the group, also where there is one core.
        cores = sorted(os.sched_getaffinity(0))
        self._variables = {
            **environment.variables(SERVER, *first, mocked=("torchvision", "sgl_kernel")),
            "PYTHONPYCACHEPREFIX": "",  # the environment is compiled where it lies
            "SGLANG_USE_CPU_ENGINE": "1",
            "SGLANG_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[-1]}",
            "OMP_NUM_THREADS": "1",
        }
        self.members: list[Member] = []

    def start(self, index: int, variables: Mapping[str, str] | None = None) -> Member:
        """Start the command on the leader (0) or the worker (1)."""
        node = self._nodes[index]
        launch = node.start(
            self._command[1:],
            {**self._variables, **lws(index), **(variables or {})},
            command=self._command[:1],
            pid_1=True,
        )
        member = Member(node, launch)
        self.members.append(member)
        return member

    def another_worker(self) -> Member:
        """Start a further pod with the worker's index."""
        self._nodes[1] = self._cluster.add_node("sglang-0-1-again")
        return self.start(1)

    def publish_leader(self) -> None:
        """Let the leader's name resolve from now on."""
        self._cluster.dns.publish(LEADER_RECORD, self._nodes[0].address)

    def publish_worker(self) -> None:
        """Let the worker's name resolve from now on, as a headless Service has it."""
        self._cluster.dns.publish(LEADER_RECORD.replace("sglang-0.", "sglang-0-1."), self._nodes[1].address)

    def wait_until(self, what: str, true: Callable[[], bool], within_s: float = SERVES_S) -> None:
        """Wait for something; fail with both logs when a process ends, or when time is up."""
        end_s = time.monotonic() + within_s
        while not true():
            ended = [member for member in self.members if member.launch.process.poll() is not None]
            logs = "".join(f"\n{member.node.hostname}:{tail(member.launch)}" for member in self.members)
            assert not ended, f"{ended[0].node.hostname} ended before {what}{logs}"
            assert time.monotonic() < end_s, f"not {what} in {within_s:.0f} s{logs}"
            time.sleep(0.2)

    def wait_said(self, member: Member, pattern: str) -> re.Match[str]:
        """Wait until a member has said something; return the match."""
        wanted = re.compile(pattern, re.IGNORECASE)
        self.wait_until(f"said {pattern!r}", lambda: wanted.search(member.launch.text()) is not None)
        found = wanted.search(member.launch.text())
        assert found is not None
        return found

    def wait_healthy(self) -> None:
        """Wait until /health of every node says 200."""
        self.wait_until("healthy", lambda: all(member.health == 200 for member in self.members))

    def wait_ended(self, members: Sequence[Member], within_s: float = ENDS_S) -> None:
        """Wait until these servers have ended; fail with their logs when time is up."""
        end_s = time.monotonic() + within_s
        while running := [member for member in members if member.launch.process.poll() is None]:
            assert time.monotonic() < end_s, (
                f"{running[0].node.hostname} is still running{tail(running[0].launch)}"
            )
            time.sleep(0.2)
