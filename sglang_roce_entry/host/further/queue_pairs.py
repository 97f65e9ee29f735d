"""Which threads have queue pairs on which HCA: the kernel's RDMA resource tracking, over netlink.

``RDMA_NLDEV_CMD_*`` and ``RDMA_NLDEV_ATTR_*`` of include/uapi/rdma/rdma_netlink.h. drivers/infiniband/core/nldev.c
answers readers without any privilege, from 4.17 on, of counters from 5.2 on. In the shared mode of RDMA network
namespaces every pod reads all devices of the node, in the exclusive one its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from sglang_roce_entry.host.facts import IpAddress
from sglang_roce_entry.host.further import netlink

_CLIENT = 5 << 10  # RDMA_NL_NLDEV
_GET, _RES_QP_GET, _RES_CM_ID_GET, _STAT_GET = 1, 10, 11, 17
_DEV_INDEX, _DEV_NAME, _PORT_INDEX = 1, 2, 3
_RES_QP, _RES_QP_ENTRY, _LQPN, _TYPE, _STATE, _PID, _KERN_NAME = 19, 20, 21, 26, 27, 28, 29
_RES_CM_ID, _RES_CM_ID_ENTRY, _DST_ADDR = 30, 31, 34
_HWCOUNTERS, _HWCOUNTER_ENTRY, _COUNTER_NAME, _COUNTER_VALUE = 80, 81, 82, 83
#: ``enum ib_qp_type`` and ``enum ib_qp_state``, include/rdma/ib_verbs.h.
_TYPES = {0: "SMI", 1: "GSI", 2: "RC", 3: "UC", 4: "UD", 8: "RAW", 9: "XRC_INI", 10: "XRC_TGT", 0xFF: "DRIVER"}
_STATES = ("RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR")
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_FAMILY = struct.Struct("=H")
_AF_INET, _AF_INET6 = 2, 10

Attributes = Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class QueuePair:
    """One queue pair that a process has made; the kernel's own are left out.

    ``thread`` is the number of the thread that made it, in this process namespace (core/restrack.c keeps
    ``current``, and nldev.c gives ``task_pid_vnr`` of it). ``None``: it has ended, or it is not of this namespace.
    ``port`` is not known before the queue pair has one; ``peer`` only of one that rdma_cm has connected.
    """

    device: str
    port: int | None
    number: int
    kind: str
    state: str
    thread: int | None
    peer: IpAddress | None = None


def read_devices() -> dict[str, int]:
    """Return the kernel's number of each HCA that is seen here. Raises ``OSError``, ``struct.error``."""
    return devices_in(_ask(_GET))


def read_queue_pairs(devices: Mapping[str, int]) -> tuple[QueuePair, ...]:
    """Return the queue pairs of all processes on these HCAs. Raises ``OSError``, ``struct.error``."""
    found: list[QueuePair] = []
    for device, index in devices.items():
        pairs = tuple(queue_pairs_in(device, _ask(_RES_QP_GET, _number(_DEV_INDEX, index))))
        peers: dict[int, IpAddress] = {}
        if pairs:
            with suppress(OSError, struct.error):
                peers = peers_in(_ask(_RES_CM_ID_GET, _number(_DEV_INDEX, index)))
        found += [replace(pair, peer=peers.get(pair.number)) for pair in pairs]
    return tuple(found)


def read_port_counters(index: int, port: int) -> dict[str, int]:
    """Return the ``hw_counters`` of a port, also where a pod's /sys has none; nothing where the kernel refuses."""
    body = _number(_DEV_INDEX, index) + _number(_PORT_INDEX, port)
    try:
        return counters_in(netlink.ask(_CLIENT | _STAT_GET, body, family=netlink.RDMA))
    except (OSError, struct.error):
        return {}


def devices_in(messages: Iterable[bytes]) -> dict[str, int]:
    """Return number by name of the devices in an answer. Raises ``struct.error``."""
    found = {}
    for message in messages:
        one = dict(netlink.attributes(message))
        index = _u32(one, _DEV_INDEX)
        if index is not None and _DEV_NAME in one:
            found[_text(one[_DEV_NAME])] = index
    return found


def queue_pairs_in(device: str, messages: Iterable[bytes]) -> Iterator[QueuePair]:
    """Yield the processes' queue pairs in an answer. Raises ``struct.error``."""
    for one in _entries(messages, _RES_QP, _RES_QP_ENTRY):
        number = _u32(one, _LQPN)
        if number is None or _KERN_NAME in one:
            continue
        kind, state = one.get(_TYPE, b"")[:1], one.get(_STATE, b"")[:1]
        yield QueuePair(
            device,
            _u32(one, _PORT_INDEX),
            number,
            _TYPES.get(kind[0], f"type {kind[0]}") if kind else "",
            _STATES[state[0]] if state and state[0] < len(_STATES) else "",
            # Before 5.x a thread of another namespace was numbered 0 here.
            _u32(one, _PID) or None,
        )


def peers_in(messages: Iterable[bytes]) -> dict[int, IpAddress]:
    """Return the peer's address by the local queue pair, of rdma_cm's connections. Raises ``struct.error``."""
    found = {}
    for one in _entries(messages, _RES_CM_ID, _RES_CM_ID_ENTRY):
        number, peer = _u32(one, _LQPN), _address(one.get(_DST_ADDR, b""))
        if number is not None and peer is not None:
            found[number] = peer
    return found


def counters_in(messages: Iterable[bytes]) -> dict[str, int]:
    """Return the counters in an answer by name. Raises ``struct.error``."""
    return {
        _text(one[_COUNTER_NAME]): _U64.unpack_from(one[_COUNTER_VALUE])[0]
        for one in _entries(messages, _HWCOUNTERS, _HWCOUNTER_ENTRY)
        if _COUNTER_NAME in one and _COUNTER_VALUE in one
    }


def _ask(command: int, body: bytes = b"") -> Iterator[bytes]:
    return netlink.ask(_CLIENT | command, body, netlink.DUMP, netlink.RDMA)


def _number(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, _U32.pack(value))


def _entries(messages: Iterable[bytes], table: int, entry: int) -> Iterator[Attributes]:
    for message in messages:
        for kind, rows in netlink.attributes(message):
            if kind != table:
                continue
            for inner, row in netlink.attributes(rows):
                if inner == entry:
                    yield dict(netlink.attributes(row))


def _u32(one: Attributes, kind: int) -> int | None:
    return int(_U32.unpack_from(one[kind])[0]) if kind in one else None


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "replace")


def _address(storage: bytes) -> IpAddress | None:
    """Return the address of a ``sockaddr_in`` or ``sockaddr_in6``."""
    family = _FAMILY.unpack_from(storage)[0] if len(storage) >= _FAMILY.size else 0
    if family == _AF_INET and len(storage) >= 8:
        return IPv4Address(storage[4:8])
    if family == _AF_INET6 and len(storage) >= 24:
        return IPv6Address(storage[8:24])
    return None
