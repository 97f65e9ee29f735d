"""Which devices libibverbs lists, asked in a process of its own. Nothing of libibverbs is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sglang_roce_entry.verbs.supervise import Ended, run_apart

#: Some 0.05 s on a quiet machine, 0.4 s under emulation.
DEADLINE_S = 10.0


class Listing(NamedTuple):
    """What libibverbs answers; ``None`` where it is not known.

    ``loads`` is ``ok`` or the loader's message, ``failure`` why the devices are not known.
    """

    loads: str | None = None
    devices: tuple[str, ...] | None = None
    failure: str | None = None


def list_devices(environ: Mapping[str, str], deadline_s: float = DEADLINE_S) -> Listing:
    """Return what libibverbs lists here. A provider that crashes or hangs is a ``failure``, never an exception."""
    return read_listing(run_apart("listing", [str(deadline_s)], environ, deadline_s))


def read_listing(ended: Ended) -> Listing:
    """Return what the process of :mod:`sglang_roce_entry.verbs.listing` has answered."""
    lines = ended.answer.decode("utf-8", "replace").splitlines()
    words = [line.partition(" ") for line in lines]
    message = next((line.removeprefix("not loaded ") for line in lines if line.startswith("not loaded ")), None)
    if message is not None:
        return Listing(loads=message)
    loads = "ok" if "ok" in lines else None
    devices = tuple(name for kind, _, name in words if kind == "device")
    if "no verbs" in lines:
        return Listing(loads)
    if "end" in lines:
        return Listing(loads, devices)
    unknown = next((why for kind, _, why in words if kind == "unknown"), None)
    failure = f"the process that lists its devices {ended.failure}" if ended.failure else "gave no answer"
    return Listing(loads, None, unknown or failure)
