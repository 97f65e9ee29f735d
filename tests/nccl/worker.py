"""Runs one NCCL release and answers questions about what it does. A program of its own.

It reads one JSON object per line from standard input and writes one per line to standard output.
NCCL keeps its parameters and its device table for the life of a process, so every question is answered
by a child that is forked after the library is loaded and before NCCL is initialised.

Questions, by ``kind``:

``unique_id``
    the address that NCCL's bootstrap takes: ``{"rc": 0, "address": "10.0.0.1", "port": 4711}``
``devices``
    NCCL's own device table: ``{"rc": 0, "devices": [{"name": "mlx5_0", "port": 1}]}``
``connect``
    the same, and NCCL connected to itself on each device; ``transitions`` are the (device, port, source
    GID index) with which it took its queue pairs to RTR: one of the sender, one of the receiver
``pairs``
    NCCL connected from one device to another, for each of ``pairs`` of names: ``{"rc": 0, "pairs": [{"rc": 0,
    "vectors": {"mlx5_0": {"is_global": 0, "dlid": 7, ...}}}]}``, the address vectors by the device that uses them

Common keys: ``environment`` (set in the child), ``tree`` (the directory that the verbs library serves).
``tables`` of the last two are GID tables that replace those of the tree: ``[{"device": "mlx5_0", "port": 1,
"length": 16, "slots": [[3, "0000:...", "RoCE v2"]]}]``; a slot without a type (``null``) reads EINVAL.

A child that dies answers ``{"signal": 11}``.
"""

from __future__ import annotations

import argparse
import ctypes
import ipaddress
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

HANDLE_BYTES = 1024  # NCCL_NET_HANDLE_MAXSIZE is 128; room for a release that raises it
PROPERTIES_BYTES = 4096
CONNECT_LIMIT_S = 10.0
CHILD_LIMIT_S = 300.0


VECTOR = ("sgid_index", "dlid", "pkey_index", "is_global", "sl", "hop_limit", "traffic_class")


class Transition(ctypes.Structure):
    """``struct verbs_transition`` of the verbs library."""

    _fields_ = (
        ("device", ctypes.c_char * 64),
        ("port", ctypes.c_uint32),
        ("sgid_index", ctypes.c_uint32),
        ("dgid", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint16) for name in ("dlid", "pkey_index")),
        *((name, ctypes.c_uint8) for name in VECTOR if name not in ("sgid_index", "dlid", "pkey_index")),
    )


class Net:
    """NCCL's own InfiniBand/RoCE network, called through its plugin table."""

    # Slots of ncclNet_v8_t ... ncclNet_v12_t, the same in all: name first, then functions.
    INIT, DEVICES, PROPERTIES, LISTEN, CONNECT, ACCEPT = 1, 2, 3, 4, 5, 6
    CLOSE_SEND, CLOSE_RECEIVE, CLOSE_LISTEN = 14, 15, 16

    def __init__(self, library: ctypes.CDLL, table_offset: int, abi: int) -> None:
        anchor = ctypes.cast(library.ncclGetVersion, ctypes.c_void_p).value or 0
        slots = ctypes.cast(anchor + table_offset, ctypes.POINTER(ctypes.c_void_p))
        name = ctypes.string_at(slots[0] or 0)
        if name != b"IB":
            raise SystemExit(f"the table found is called {name!r}, not IB")
        function = ctypes.CFUNCTYPE(ctypes.c_int)
        self._functions = {index: function(slots[index] or 0) for index in range(1, 17)}
        self._abi = abi
        self._context = ctypes.c_void_p()
        # trafficClass, the only member of ncclNetCommConfig: -1 is "not defined".
        self._config = (ctypes.c_int * 4)(-1, 0, 0, 0)

    def _call(self, slot: int, *arguments: Any) -> int:
        return int(self._functions[slot](*arguments))

    def init(self) -> int:
        nothing = ctypes.c_void_p()
        if self._abi <= 9:
            return self._call(self.INIT, nothing)
        if self._abi == 10:
            return self._call(self.INIT, nothing, nothing)
        config = ctypes.byref(self._config)
        context = ctypes.byref(self._context)
        return self._call(self.INIT, context, ctypes.c_uint64(1), config, nothing, nothing)

    def count(self) -> int:
        number = ctypes.c_int(-1)
        rc = self._call(self.DEVICES, ctypes.byref(number))
        return number.value if rc == 0 else 0

    def properties(self, device: int) -> tuple[str, int]:
        """Return name and port. From v9 on ``forceFlush`` stands before speed and port."""
        raw = (ctypes.c_char * PROPERTIES_BYTES)()
        rc = self._call(self.PROPERTIES, device, ctypes.byref(raw))
        if rc != 0:
            raise SystemExit(f"getProperties({device}) gave {rc}")
        (name,) = struct.unpack_from("P", raw, 0)
        (port,) = struct.unpack_from("i", raw, 36 if self._abi <= 8 else 40)
        return ctypes.string_at(name).decode(), port

    def _device(self, device: int) -> tuple[Any, ...]:
        return (self._context, device) if self._abi >= 11 else (device,)

    def connect(self, device: int, other: int) -> int:
        """Take a send side of ``device`` and a receive side of ``other`` to ready; return NCCL's result code."""
        handle = (ctypes.c_char * HANDLE_BYTES)()
        listener = ctypes.c_void_p()
        rc = self._call(self.LISTEN, *self._device(other), handle, ctypes.byref(listener))
        if rc != 0:
            return rc
        sender, receiver = ctypes.c_void_p(), ctypes.c_void_p()
        offload = ctypes.c_void_p()  # no device offload is asked for
        target = self._device(device)
        if self._abi == 10:
            target = (device, ctypes.byref(self._config))
        deadline = time.monotonic() + CONNECT_LIMIT_S
        while rc == 0 and not (sender.value and receiver.value):
            if not sender.value:
                rc = self._call(self.CONNECT, *target, handle, ctypes.byref(sender), ctypes.byref(offload))
            if rc == 0 and not receiver.value:
                rc = self._call(self.ACCEPT, listener, ctypes.byref(receiver), ctypes.byref(offload))
            if time.monotonic() > deadline:
                rc = -1
        if sender.value:
            self._call(self.CLOSE_SEND, sender)
        if receiver.value:
            self._call(self.CLOSE_RECEIVE, receiver)
        self._call(self.CLOSE_LISTEN, listener)
        return rc


class Worker:
    """One NCCL release and, unless only addresses are asked for, the verbs library."""

    def __init__(self, library: str, table_offset: int, abi: int, verbs: str | None) -> None:
        self._library = ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self._net = Net(self._library, table_offset, abi)
        self._verbs = ctypes.CDLL(verbs) if verbs else None
        if self._verbs is not None:
            self._verbs.verbs_transition_at.restype = ctypes.POINTER(Transition)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        os.environ.update(question.get("environment", {}))
        kind = question["kind"]
        if kind == "unique_id":
            return self._unique_id()
        if self._verbs is None:
            raise SystemExit("this worker was started without the verbs library")
        self._verbs.verbs_tree_set(os.fsencode(question["tree"]))
        for table in question.get("tables", ()):
            self._give(table)
        rc = self._net.init()
        devices = []
        seen: dict[str, int] = {}
        for device in range(self._net.count() if rc == 0 else 0):
            name, port = self._net.properties(device)
            # NCCL adds the number of earlier devices with the same PCI function to the port.
            entry: dict[str, Any] = {"name": name, "port": port - seen.get(name, 0)}
            seen[name] = seen.get(name, 0) + 1
            if kind == "connect":
                entry["rc"], entry["transitions"] = self._connect(device)
            devices.append(entry)
        if kind == "pairs":
            numbers = {entry["name"]: number for number, entry in enumerate(devices)}
            return {
                "rc": rc,
                "pairs": [self._pair(numbers[one], numbers[other]) for one, other in question["pairs"]],
            }
        return {"rc": rc, "devices": devices}

    def _pair(self, device: int, other: int) -> dict[str, Any]:
        assert self._verbs is not None
        self._verbs.verbs_transitions_clear()
        rc = self._net.connect(device, other)
        vectors = {}
        for position in range(self._verbs.verbs_transition_count()):
            entry = self._verbs.verbs_transition_at(position).contents
            vector = {name: int(getattr(entry, name)) for name in VECTOR}
            vectors[entry.device.decode()] = {**vector, "dgid": bytes(entry.dgid).hex()}
        return {"rc": rc, "vectors": vectors}

    def _give(self, table: dict[str, Any]) -> None:
        """Hand a GID table to the verbs library."""
        assert self._verbs is not None
        failed = self._verbs.verbs_table_add(table["device"].encode(), table["port"], table["length"])
        for index, gid, kind in table["slots"]:
            failed |= self._verbs.verbs_slot_add(index, gid.encode(), (kind or "").encode())
        if failed:
            raise SystemExit(f"the verbs library takes no such table: {table}")

    def _unique_id(self) -> dict[str, Any]:
        """``ncclUniqueId`` is 128 bytes: a 64-bit magic, then the socket address of the bootstrap."""
        identifier = (ctypes.c_char * 128)()
        rc = self._library.ncclGetUniqueId(ctypes.byref(identifier))
        if rc != 0:
            return {"rc": rc, "address": None}
        raw = bytes(identifier)
        (family,) = struct.unpack_from("=H", raw, 8)
        (port,) = struct.unpack_from("!H", raw, 10)
        if family == 2:
            return {"rc": rc, "address": str(ipaddress.IPv4Address(raw[12:16])), "port": port}
        return {"rc": rc, "address": str(ipaddress.IPv6Address(raw[16:32])), "port": port}

    def _connect(self, device: int) -> tuple[int, list[tuple[str, int, int]]]:
        assert self._verbs is not None
        self._verbs.verbs_transitions_clear()
        rc = self._net.connect(device, device)
        made = []
        for position in range(self._verbs.verbs_transition_count()):
            entry = self._verbs.verbs_transition_at(position).contents
            made.append((entry.device.decode(), int(entry.port), int(entry.sgid_index)))
        return rc, made


def answer_in_child(worker: Worker, question: dict[str, Any]) -> dict[str, Any]:
    """Fork, answer there, and return what came back, or the signal that ended the child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(worker.answer(question), pipe)
        # NCCL's threads wait for events that never come: leave without asking them.
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + CHILD_LIMIT_S
    pieces = []
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(reading, 1 << 16) if ready else None
        if piece is None:
            os.kill(child, signal.SIGKILL)
        if not piece:
            break
        pieces.append(piece)
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        return {"rc": None, "signal": -status}
    if status > 0:
        return {"rc": None, "exit": status}
    answer: dict[str, Any] = json.loads(b"".join(pieces))
    return answer


def main() -> None:
    """Serve questions until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--table-offset", type=int, required=True)
    parser.add_argument("--abi", type=int, required=True)
    parser.add_argument("--verbs")
    options = parser.parse_args()
    # A failed connection leaves its sockets behind in NCCL.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 60000), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = Worker(options.library, options.table_offset, options.abi, options.verbs)
    for line in sys.stdin:
        print(json.dumps(answer_in_child(worker, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
