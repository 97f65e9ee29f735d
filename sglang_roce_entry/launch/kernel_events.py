"""What the kernel announces, by pyudev: loaded when hardware is waited for."""

from __future__ import annotations

from collections.abc import Iterable

import pyudev


def monitor(subsystems: Iterable[str]) -> pyudev.Monitor:
    """Return a started monitor of the kernel's own events. Raises OSError without the permission to listen."""
    made = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    for subsystem in subsystems:
        made.filter_by(subsystem)
    made.start()
    return made
