"""What NCCL's RAS answers, as `src/ras/client_support.cc` writes it; compared with real answers in `test_ras.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GREETING = "SERVER PROTOCOL 2\nOK\n"
_HEAD = """\
NCCL version {nccl} compiled with CUDA 13.0
CUDA runtime version 13000, driver version 13000

Job summary
===========

  Nodes  Processes         GPUs  Processes     GPUs
(total)   per node  per process    (total)  (total)
      2          8            1         16       16

Communicators... (0.000s)
=============

"""
_TABLE = """\
Group     Comms     Nodes     Ranks     Ranks     Ranks    Status  Errors
    #  in group  per comm  per node  per comm  in group
"""
_END = "Warnings\n========\n\n"


@dataclass(frozen=True)
class Comms:
    """A row of the table, and what its first communicator has: silent ranks, ranks in error with their words."""

    size: int
    count: int = 1
    nodes: int = 2
    status: str = "RUNNING"
    silent: Sequence[int] = ()
    errors: Sequence[tuple[str, str, Sequence[int]]] = ()  # "Asynchronous", "Remote process error", ranks

    @property
    def words(self) -> str:
        found = ["INCOMPLETE"] if self.silent else []
        return ",".join([*found, *(["ERROR"] if self.errors else [])]) or "OK"


@dataclass(frozen=True)
class Job:
    """A job whose rank N is process 1000 + N; 8 ranks a node, on 10.0.0.1, 10.0.0.2, ..."""

    comms: Sequence[Comms] = (Comms(16),)
    dead: Sequence[int] = ()
    missing: Sequence[int] = ()
    nccl: str = "2.28.9"
    warnings: str = field(default="")


def _where(rank: int) -> str:
    return f"process {1000 + rank} on node 10.0.0.{rank // 8 + 1}"


def _processes(ranks: Sequence[int]) -> list[str]:
    return [f"  P{_where(rank)[1:]} managing GPU {rank % 8}" for rank in ranks]


def text(job: Job) -> str:
    """Return the answer to VERBOSE STATUS, without the greeting."""
    lines = [
        f"{number:5}  {one.count:8}  {one.nodes:8}  {8:8}  {one.size:8}  {one.size:8}  {one.status:>8}  {one.words:>6}"
        for number, one in enumerate(job.comms)
    ]
    out = [_TABLE + "\n".join(lines) if lines else "No communicator data collected!", "", "Errors", "======", ""]
    if job.missing:
        many = "es" if len(job.missing) > 1 else ""
        out += ["INCOMPLETE", f"  Missing communicator data from {len(job.missing)} job process{many}"]
        out += [*_processes(job.missing), ""]
    if job.dead:
        verb = "es are" if len(job.dead) > 1 else " is"
        out += ["DEAD", f"  {len(job.dead)} job process{verb} considered dead (unreachable via the RAS network)"]
        out += [*_processes(job.dead), ""]
    for number, one in enumerate(job.comms):
        head = f"#{number}-0 (c7512795fcfd9dc{number})"
        if one.silent:
            out += [
                f"{head} INCOMPLETE",
                f"  Missing communicator data from {len(one.silent)} rank" + "s" * (len(one.silent) > 1),
            ]
            out += [f"  Rank {rank} -- GPU {rank % 8} managed by {_where(rank)}" for rank in one.silent]
            out += [""]
        if one.errors:
            out += [f"{head} ERROR"]
            for kind, said, ranks in one.errors:
                more = "s" if len(ranks) > 1 else ""
                out += [f"  {kind} error{more} on {len(ranks)} rank{more}"]
                out += [f"  {len(ranks)} ranks reported {said}"] if more else []
                reported = "" if more else f" reported {said}"
                out += [f"  Rank {rank}{reported} -- GPU {rank % 8} managed by {_where(rank)}" for rank in ranks]
            out += [""]
    return _HEAD.format(nccl=job.nccl) + "\n".join(out) + "\n" + _END + job.warnings + "\n"


HEALTHY = Job((Comms(16, 3), Comms(8, 4, nodes=1)))
_REMOTE = (("Asynchronous", "Remote process error", [0]),)
#: SIGKILL of rank 9's process: after two seconds, and after sixty.
KILLED = Job((Comms(16, silent=[9], errors=_REMOTE),), missing=[9])
DEAD = Job((Comms(16, silent=[9], errors=_REMOTE),), dead=[9])
#: SIGSTOP: a node that hangs.
STOPPED = Job((Comms(16, silent=[9]),), missing=[9])
STOPPED_DEAD = Job((Comms(16, silent=[9]),), dead=[9])
NODE_LOST = Job((Comms(16, silent=range(8, 16)),), dead=range(8, 16))
