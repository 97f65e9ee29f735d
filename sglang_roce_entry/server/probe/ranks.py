"""``--probe ranks``: which ranks NCCL holds for dead, by its own RAS in this pod.

Failed are ranks that are *considered dead* (no word from them for 60 s) and communicators with an asynchronous
error, which cannot be used any more: the server hangs with them. Data that is missing is said and not failed,
since a long load looks like it. Whatever cannot be asked or is not known passes, as *cannot tell*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sglang_roce_entry.group.endpoint import ends_in_its_number
from sglang_roce_entry.named_file import read_in
from sglang_roce_entry.natural import whole_number
from sglang_roce_entry.probe_kinds import RANKS
from sglang_roce_entry.problems import ConfigurationError
from sglang_roce_entry.server.arguments import UserArguments, read_arguments
from sglang_roce_entry.server.probe.ask_ras import CannotAsk, ask_ras, environment_of
from sglang_roce_entry.server.probe.kinds import Verdict, cannot_tell
from sglang_roce_entry.server.probe.ras import ASYNCHRONOUS, Communicators, Process, Rank, Status
from sglang_roce_entry.server.running import Found, running_here

_DEAD_S = 60  # RAS_PEER_DEAD_TIMEOUT, times NCCL_RAS_TIMEOUT_FACTOR
_MOST_NAMED = 8

_STATES = {
    "INIT": "being set up",
    "RUNNING": "running",
    "FINALIZE": "being finalized",
    "ABORT": "aborted",
    "NOCOMM": "left by some ranks",
}
_FAULTS = {
    "ERROR": "with errors",
    "INCOMPLETE": "no data from some ranks",
    # Also of every job that works: the answers of the ranks are not of one moment.
    "MISMATCH": "ranks at different operations",
}


@dataclass(frozen=True, slots=True)
class Group:
    """The group of a server, to tell a node by a rank: ``world`` ranks in order over ``nodes`` nodes.

    ``leader`` is the leader's host name where LeaderWorkerSet has given it.
    """

    world: int = 1
    nodes: int = 1
    leader: str = ""

    def node_of(self, rank: Rank) -> str:
        """Return the index of a rank's node and its pod's name, nothing where they cannot be told.

        SGLang numbers the ranks of all GPUs node by node (``srt/entrypoints/engine.py``); of a smaller
        communicator the numbers tell nothing.
        """
        if self.nodes < 2 or rank.size != self.world or self.world % self.nodes or rank.number >= self.world:
            return ""
        index = rank.number // (self.world // self.nodes)
        pod = self.leader.partition(".")[0]
        if not ends_in_its_number(pod):
            return f"node {index}"
        return f"node {index}, pod {pod}-{index}" if index else f"node {index}, pod {pod}"


@dataclass(frozen=True, slots=True)
class Ranks:
    """What is known of the ranks: the status, or why there is none, and what is needed to name them."""

    status: Status | None
    why: str = ""
    group: Group = Group()
    dead_s: int = _DEAD_S
    #: SGLang's elastic EP goes on without ranks that have died.
    elastic: bool = False


def run_ranks(timeout_s: float) -> Verdict:
    """Return the verdict on the ranks of the server that runs here, with the communicators in words."""
    return judge(read_ranks(running_here(), timeout_s))


def read_ranks(found: Found, timeout_s: float) -> Ranks:
    """Return what NCCL in the server that runs here knows of the group's ranks."""
    if not found.servers:
        if found.launchers:
            return Ranks(None, f"the launcher (process {found.launchers[0]}) has not started SGLang yet")
        return Ranks(None, "no SGLang server is running here")
    if len(found.servers) > 1:
        pids = ", ".join(str(process.pid) for process, _ in found.servers)
        return Ranks(None, f"several SGLang servers are running here (processes {pids})")
    ((process, arguments),) = found.servers
    environ = environment_of(process.pid)
    try:
        user = read_arguments(arguments, partial(read_in, process.cwd))
        group, elastic = _group(user, environ), user.text("elastic_ep_backend") is not None
    except ConfigurationError:
        group, elastic = Group(), False
    factor = whole_number(environ.get("NCCL_RAS_TIMEOUT_FACTOR")) or 1
    try:
        return Ranks(ask_ras((process.pid,), environ, timeout_s), "", group, _DEAD_S * factor, elastic)
    except CannotAsk as failure:
        return Ranks(None, str(failure))


def _group(user: UserArguments, environ: Mapping[str, str]) -> Group:
    world = user.number("tp_size", 1) * user.number("pp_size", 1)
    return Group(world, user.number("nnodes", 1), environ.get("LWS_LEADER_ADDRESS", ""))


def judge(ranks: Ranks) -> Verdict:
    """Return the verdict: what is dead or in error, by name."""
    status = ranks.status
    if status is None:
        return cannot_tell(RANKS, ranks.why)
    dead, failed = _dead(status, ranks), _failed(status, ranks)
    details = tuple(_in_words(one) for one in status.communicators)
    if dead or failed:
        silent = "" if dead else _silent(status, ranks)
        reason = "; ".join(filter(None, (dead, failed, silent)))
        if ranks.elastic:
            return Verdict(True, f"{reason}; --elastic-ep-backend lets the others go on", details)
        return Verdict(False, reason, details)
    release = f"NCCL {status.nccl}" if status.nccl else "NCCL"
    if status.missing_count or status.silent:
        silent = _silent(status, ranks) or f"no answer from {_counted(status.missing_count, 'process')}"
        return Verdict(True, f"{release} holds no rank for dead; {silent}, as during a long load", details)
    others = [failure for failure in status.failures if failure.kind != ASYNCHRONOUS]
    if others:
        said = f"{others[0].reason or 'an error'} on {_counted(others[0].count, 'rank')}"
        return Verdict(
            True, f"{release} holds no rank for dead; a communicator could not be set up ({said})", details
        )
    if not status.communicators:
        return cannot_tell(RANKS, f"{release} has no communicator yet")
    largest = max(status.communicators, key=lambda one: one.size)
    return Verdict(True, f"{release} hears from all {_counted(largest.size, 'rank')}", details)


def _dead(status: Status, ranks: Ranks) -> str:
    if not status.dead_count:
        return ""
    head = f"NCCL considers {_counted(status.dead_count, 'process')} dead (no word for {ranks.dead_s} s or more)"
    named = [_of_process(process, status, ranks.group) for process in status.dead]
    return f"{head}{_listed(named, status.dead_count)}"


def _failed(status: Status, ranks: Ranks) -> str:
    found = next((failure for failure in status.failures if failure.kind == ASYNCHRONOUS), None)
    if found is None:
        return ""
    named = [_of_rank(rank, ranks.group) for rank in found.ranks]
    head = f"{_counted(found.count, 'rank')} reported {found.reason or 'an asynchronous error'}"
    return f"{head}{_listed(named, found.count)}"


def _silent(status: Status, ranks: Ranks) -> str:
    if not status.silent:
        return ""
    named = [_of_rank(rank, ranks.group) for rank in status.silent]
    return f"no answer from {_counted(len(named), 'rank')}{_listed(named, len(named))}"


def _of_process(process: Process, status: Status, group: Group) -> str:
    found = status.ranks_of(process)
    if not found:
        return _where(process)
    numbers = ", ".join(str(rank.number) for rank in found[:_MOST_NAMED])
    node = group.node_of(found[0])
    return f"rank {numbers} of {found[0].size} ({f'{node}, ' if node else ''}{_where(process)})"


def _of_rank(rank: Rank, group: Group) -> str:
    known = [group.node_of(rank), _where(rank.process) if rank.process is not None else ""]
    where = ", ".join(filter(None, known))
    return f"rank {rank.number} of {rank.size}" + (f" ({where})" if where else "")


def _where(process: Process) -> str:
    return f"process {process.pid} on {process.host}"


def _listed(named: Sequence[str], count: int) -> str:
    shown = list(named[:_MOST_NAMED])
    if not shown:
        return ""
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f": {', '.join(shown)}{more}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


def _in_words(one: Communicators) -> str:
    faults = [_FAULTS[word] for word in one.errors if word in _FAULTS]
    what = (
        f"{_counted(one.count, 'communicator')} of {_counted(one.size, 'rank')} on {_counted(one.nodes, 'node')}"
    )
    return f"{what}: {', '.join([_STATES[one.status], *faults])}"
