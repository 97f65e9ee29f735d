"""torch's TCPStore client in plain Python, for groups whose memory torch itself would fill.

Only what the stand-in needs: join, set nothing, get, add. What torch 2.13's client sends was read off a
connection of one (little-endian; a byte for the command, a key with its length in 8 bytes); the layer's
tests have the real server count it. It is copied beside the stand-in, so it imports nothing of the tests.
"""

import os
import random
import socket
import struct
import time
from datetime import timedelta

_MAGIC = 0x3C85F7CE
_VALIDATE, _GET, _ADD, _WAIT, _PING = 0, 3, 4, 6, 13


class TorchPatience:
    """How torch's client tries again: pauses from 0.5 s, times 1.5, each +- 50 %, up to 60 s.

    Source: ExponentialBackoffWithJitter in torch 2.13's Backoff.hpp; TCPStore.cpp puts the first try off
    by up to one millisecond for each rank of the world.
    """

    def __init__(self, world: int, chance: random.Random) -> None:
        self.first_s = chance.randint(1, world) / 1000
        self._chance = chance
        self._interval_s = 0.5

    def pause_s(self) -> float:
        """Return the next pause."""
        pause = self._interval_s * self._chance.uniform(0.5, 1.5)
        self._interval_s = min(60.0, self._interval_s * 1.5)
        return pause


class WireStore:
    """A client with the methods of `torch.distributed.TCPStore` that the stand-in calls."""

    #: Which back-end the server has, a client cannot tell.
    libuvBackend = None  # noqa: N815 - torch's name

    def __init__(
        self, host: str, port: int, world: int, is_master: bool, timeout: timedelta, *, use_libuv: bool
    ) -> None:
        if is_master:
            raise RuntimeError("a client only")
        self._connection = self._connect(host, port, world, timeout.total_seconds())
        nonce = struct.pack("<I", os.getpid())
        self._connection.sendall(struct.pack("<BI", _VALIDATE, _MAGIC) + bytes([_PING]) + nonce)
        if self._receive(4) != nonce:
            raise RuntimeError("the server does not answer as a TCPStore")
        self._add("init/", 1)

    @staticmethod
    def _connect(host: str, port: int, world: int, timeout_s: float) -> socket.socket:
        patience = TorchPatience(world, random.Random())
        end_s = time.monotonic() + timeout_s
        time.sleep(patience.first_s)
        while True:
            try:
                connection = socket.create_connection((host, port), timeout_s)
            except OSError as failure:
                if time.monotonic() > end_s:
                    raise RuntimeError(f"the client socket has timed out: {failure}") from failure
                time.sleep(patience.pause_s())
            else:
                return connection

    def _receive(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            part = self._connection.recv(count - len(received))
            if not part:
                raise RuntimeError("the server has closed the connection")
            received += part
        return received

    @staticmethod
    def _key(key: str) -> bytes:
        return struct.pack("<Q", len(key)) + key.encode()

    def _add(self, key: str, amount: int) -> int:
        self._connection.sendall(bytes([_ADD]) + self._key(key) + struct.pack("<q", amount))
        return int(struct.unpack("<q", self._receive(8))[0])

    def add(self, key: str, amount: int) -> int:
        """Return the counter `key` after adding."""
        return self._add("/" + key, amount)

    def get(self, key: str) -> bytes:
        """Return the value of `key` once it is there."""
        wanted = self._key("/" + key)
        self._connection.sendall(bytes([_WAIT]) + struct.pack("<Q", 1) + wanted)
        if self._receive(1) != b"\0":
            raise RuntimeError("the wait for a key was cancelled")
        self._connection.sendall(bytes([_GET]) + wanted)
        return self._receive(struct.unpack("<Q", self._receive(8))[0])
