"""The pause of a wait for hardware lasts as long as it may, whatever the kernel's events do."""

from __future__ import annotations

import errno
from time import monotonic, sleep
from typing import TYPE_CHECKING

from sglang_roce_entry.launch import hardware

if TYPE_CHECKING:
    import pytest


class Overrun:
    """A monitor whose socket overflowed while a table was read: a node that makes its virtual functions."""

    def poll(self, timeout: float) -> None:
        """Fail as libudev does, once: the error is cleared by being reported."""
        raise OSError(errno.ENOBUFS, "No buffer space available")


def test_lost_events_are_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_monitor", Overrun)
    started = monotonic()
    hardware.KernelEvents().pause(5.0)
    assert 0.05 < monotonic() - started < 3


class Others:
    """A monitor that wakes at once for events of other subsystems, which its filter then drops."""

    def poll(self, timeout: float) -> None:
        """Return nothing, long before the time is over, as pyudev does."""
        sleep(min(0.1, timeout))


def test_events_of_others_do_not_shorten_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_monitor", Others)
    started = monotonic()
    hardware.KernelEvents().pause(0.5)
    assert 0.49 < monotonic() - started < 30
