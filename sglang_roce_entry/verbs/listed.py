"""Which devices libibverbs lists, asked in a process of its own. Nothing of libibverbs is loaded here."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.verbs.supervise import Ended, run_apart

#: Some 0.05 s on a quiet machine, 0.4 s under emulation.
DEADLINE_S = 10.0


#: ``ok`` or the loader's message; the devices; why these are not known. ``None`` for what is not known.
Listing = tuple[str | None, tuple[str, ...] | None, str | None]


def list_devices(environ: Mapping[str, str], deadline_s: float = DEADLINE_S) -> Listing:
    """Return what libibverbs lists here. A provider that crashes or hangs is a ``failure``, never an exception."""
    return read_listing(run_apart("listing", [str(deadline_s)], environ, deadline_s))


def read_listing(ended: Ended) -> Listing:
    """Return what the process of :mod:`sglang_roce_entry.verbs.listing` has answered."""
    answer, broken = ended
    lines = answer.decode("utf-8", "replace").splitlines()
    told = [line.partition(" ") for line in lines]
    message = next((line.removeprefix("not loaded ") for line in lines if line.startswith("not loaded ")), None)
    if message is not None:
        return message, None, None
    loads = "ok" if "ok" in lines else None
    if "no verbs" in lines:
        return loads, None, None
    if "end" in lines:
        return loads, tuple(name for kind, _, name in told if kind == "device"), None
    unknown = next((why for kind, _, why in told if kind == "unknown"), None)
    return loads, None, unknown or (f"the process that lists its devices {broken}" if broken else "gave no answer")
