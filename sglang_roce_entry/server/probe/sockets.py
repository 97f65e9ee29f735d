"""Whose a TCP port is: the kernel's table of sockets, and which processes hold them.

With the host network a port can belong to another job of the node, and NCCL's sockets have SO_REUSEPORT, so that
several may listen on one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from sglang_roce_entry.server.processes import parent_of

#: ``include/net/tcp_states.h``
_ESTABLISHED, _LISTEN = "01", "0A"
#: Of a node with some 100,000 sockets.
_MOST_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Socket:
    """A row of ``/proc/net/tcp``: the local address, both ports, and the inode (0: not accepted yet)."""

    address: str
    port: int
    remote_port: int
    listens: bool
    inode: int


def sockets_at(port: int, tables: Iterable[str]) -> tuple[Socket, ...]:
    """Return who listens on a local port, and the connections to it, of ``/proc/net/tcp`` and ``tcp6``."""
    return _rows(tables, f":{port:04X}", (_ESTABLISHED, _LISTEN))


def all_listening(tables: Iterable[str]) -> tuple[Socket, ...]:
    """Return who listens on any port, of the same tables."""
    return _rows(tables, "", (_LISTEN,))


def _rows(tables: Iterable[str], ending: str, states: Collection[str]) -> tuple[Socket, ...]:
    found = []
    for table in tables:
        for line in table.splitlines():
            fields = line.split()
            if len(fields) < 10 or not fields[1].endswith(ending) or fields[3] not in states:
                continue
            (address, port), remote = fields[1].split(":"), int(fields[2].rpartition(":")[2], 16)
            found.append(Socket(_address(address), int(port, 16), remote, fields[3] == _LISTEN, int(fields[9])))
    return tuple(found)


def _address(text: str) -> str:
    # Words of 32 bits, each in the byte order of this machine.
    raw = struct.pack(f"={len(text) // 8}I", *(int(text[at : at + 8], 16) for at in range(0, len(text), 8)))
    return str(IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw))


def read_tables() -> tuple[str, ...]:
    """Return the kernel's tables of TCP sockets in this network namespace, those that can be read."""
    texts = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", "rb") as file:
                texts.append(file.read(_MOST_BYTES).decode("ascii", "replace"))
        except OSError:
            continue
    return tuple(texts)


def family_of(pids: Collection[int]) -> tuple[int, ...]:
    """Return processes with all that descend from them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            children.setdefault(parent_of(int(name)), []).append(int(name))
    found = list(pids)
    for pid in found:
        found += [child for child in children.get(pid, ()) if child not in found]
    return tuple(found)


def holders(inodes: Collection[int], pids: Iterable[int]) -> dict[int, int]:
    """Return which of ``inodes`` a process among ``pids`` has open, with its number."""
    left = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for pid in pids:
        if not left:
            break
        for link in open_files(pid):
            inode = left.pop(link, None)
            if inode is not None:
                found[inode] = pid
    return found


def may_be_read(pid: int) -> bool:
    """Return whether a process's open files may be listed."""
    return os.access(f"/proc/{pid}/fd", os.R_OK | os.X_OK)


def open_files(pid: int) -> Iterator[str]:
    """Yield the open files of a process (``/dev/null``, ``socket:[123]``); none where they may not be read."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return  # another user's, or gone
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue
