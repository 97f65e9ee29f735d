"""What the kernel says of a node's TCP, read from outside and without a packet: listeners, counters.

Formats: proc_net_tcp.rst and snmp_counter.rst of the kernel's documentation.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_LISTEN = "0A"
_LOOK_EVERY_S = 0.002


def is_listening(pid: int, port: int) -> bool:
    """Return whether `port` accepts on any address in the network of process `pid`."""
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        with Path(f"/proc/{pid}/net/{table}").open(encoding="ascii") as lines:
            for line in lines:
                fields = line.split(None, 4)
                if fields[3] == _LISTEN and fields[1].endswith(wanted):
                    return True
    return False


def tcp_counters(pid: int) -> dict[str, int]:
    """Return the counters `Tcp*` and `TcpExt*` of the network of process `pid`, as nstat names them."""
    found: dict[str, int] = {}
    for table in ("snmp", "netstat"):
        lines = Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            prefix, *keys = names.split()
            if prefix in ("Tcp:", "TcpExt:"):
                numbers = map(int, values.split()[1:])
                found |= {prefix[:-1] + key: number for key, number in zip(keys, numbers, strict=True)}
    return found


class PortWatch:
    """When a port of a node opened: after `closed_s`, by `opened_s` (`time.monotonic()`)."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid, self._port = pid, port
        self._end = threading.Event()
        self.closed_s = time.monotonic()
        self.opened_s: float | None = None
        self._thread = threading.Thread(target=self._look, name="port watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(_LOOK_EVERY_S):
            before_s = time.monotonic()
            if is_listening(self._pid, self._port):
                self.opened_s = time.monotonic()
                return
            self.closed_s = before_s
