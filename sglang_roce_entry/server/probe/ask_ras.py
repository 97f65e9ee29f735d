"""Asks NCCL's RAS in this pod, if a process of this pod's own server is the one that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

from sglang_roce_entry.group.endpoint import MAX_PORT
from sglang_roce_entry.natural import whole_number
from sglang_roce_entry.server.probe.connection import Connection, connected
from sglang_roce_entry.server.probe.ras import END, MOST_BYTES, PROTOCOL, NotRas, Status, parse
from sglang_roce_entry.server.probe.sockets import family_of, holders, may_be_read, read_tables, sockets_at
from sglang_roce_entry.server.processes import read_process

_PORT = 28028  # NCCL_RAS_CLIENT_PORT of src/ras/ras_internal.h
_GREETING = f"CLIENT PROTOCOL {PROTOCOL}\n".encode()
#: A RAS thread greets at once, unless its process is stopped.
_GREETING_S = 1.0
#: So many connections at most: the kernel spreads them over all processes that listen.
_TRIES = 8
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class CannotAsk(Exception):
    """RAS could not be asked, with the reason."""


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with, as far as it may be read."""
    pairs = (word.partition(b"=") for word in read_process(pid, "environ").split(b"\0"))
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, _, value in pairs if name}


def ras_port(environ: Mapping[str, str]) -> int:
    """Return the port of NCCL's RAS (``NCCL_RAS_ADDR``). Raises :class:`CannotAsk` where it is off."""
    enabled = environ.get("NCCL_RAS_ENABLE", "").strip()
    if enabled and not enabled.strip("0"):
        raise CannotAsk("NCCL_RAS_ENABLE=0 switches NCCL's RAS off")
    address = environ.get("NCCL_RAS_ADDR", "")
    if not address:
        return _PORT
    port = whole_number(address.rpartition(":")[2])
    if port is None or not 0 < port <= MAX_PORT:
        raise CannotAsk(f"NCCL_RAS_ADDR={address[:60]!r} has no port, so that NCCL's RAS does not listen")
    return port


def ask_ras(pids: Sequence[int], environ: Mapping[str, str], timeout_s: float) -> Status:
    """Return what RAS says in a server's processes: ``pids`` and all that descend from them.

    Raises :class:`CannotAsk`. Nothing is sent if none of these processes listens; if others do besides, which
    processes of one user can, an answer counts only if the accepted end is theirs.
    """
    deadline = monotonic() + timeout_s
    port = ras_port(environ)
    listening = [one for one in sockets_at(port, read_tables()) if one.listens]
    owners = holders([one.inode for one in listening], family_of(pids))
    own = [one for one in listening if one.inode in owners]
    if listening and not own and not may_be_read(pids[0]):
        raise CannotAsk(f"the sockets of process {pids[0]} may not be read: ask as its user")
    if not own:
        whose = f"port {port} belongs to another process" if listening else f"nothing listens on port {port}"
        raise CannotAsk(
            f"{whose}: NCCL's RAS is not in this server's processes (NCCL before 2.24, RCCL, no communicator yet, "
            "NCCL_RAS_ENABLE=0, or a port that was taken)"
        )
    why = "NCCL's RAS does not answer in time"
    address = _ANYWHERE.get(own[0].address, own[0].address)
    for _ in range(_TRIES):
        if deadline - monotonic() <= 0:
            break
        try:
            with connected(address, port, min(deadline, monotonic() + _GREETING_S)) as connection:
                connection.send(_GREETING)
                answer = connection.receive()
                if not answer:
                    why = "NCCL's RAS closes the connection"
                    continue
                if len(own) < len(listening) and not _is_ours(connection, port, set(owners.values())):
                    why = f"port {port} is shared with processes that are not this server's"
                    continue
                connection.deadline = deadline
                return _status(connection, answer, max(1, int(timeout_s / 3)))
        except NotRas as failure:
            raise CannotAsk(f"what listens on port {port} is no RAS that is known: {failure}") from failure
        except TimeoutError:
            continue  # a process that is stopped: another one may know
        except OSError as failure:
            why = f"NCCL's RAS closes the connection ({failure.strerror or failure})"
    raise CannotAsk(why)


def _is_ours(connection: Connection, port: int, pids: set[int]) -> bool:
    local = connection.socket.getsockname()[1]
    ends = [one.inode for one in sockets_at(port, read_tables()) if one.remote_port == local and not one.listens]
    return bool(holders(ends, pids))


def _status(connection: Connection, answer: bytes, legs_s: int) -> Status:
    """Return the status; a rank that does not answer NCCL within ``legs_s`` is reported as missing."""
    while b"\n" not in answer and len(answer) < 80:
        answer += connection.receive() or b"\n"
    if not answer.startswith(f"SERVER PROTOCOL {PROTOCOL}\n".encode()):
        return parse(answer)
    connection.send(f"TIMEOUT {legs_s}\nVERBOSE STATUS\n".encode())
    while END not in answer[-1 << 16 :] and len(answer) < MOST_BYTES:
        part = connection.receive(1 << 16)
        if not part:
            break
        answer += part
    return parse(answer)
