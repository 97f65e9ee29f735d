"""NCCL's device selector: the grammar of ``NCCL_IB_HCA``.

Source of the rules: NVIDIA/nccl ``src/misc/utils.cc`` (``parseStringList``, ``matchIfList``) and
``net_ib`` (``ncclIbInit`` to 2.28, ``ncclIbInitDevices`` from 2.29)::

    value := ["^"] ["="] entry ("," entry)*
    entry := name [":" port [":" rail [":" plane]]]

One ``^`` (exclude) and one ``=`` (exact) cover the whole list, in that order. Without ``=`` a name is
a prefix: ``mlx5_1`` also selects ``mlx5_10``. Spaces are not trimmed. At most 32 entries count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sglang_roce_entry.fabric.nccl.numbers import atoi
from sglang_roce_entry.natural import natural_key

MAX_ENTRIES = 32  # MAX_IB_DEVS in NCCL's net_ib; the rest is dropped silently

#: From this release on an empty port means "any" and port:rail:plane is parsed.
RAIL_GRAMMAR = (2, 30, 7)


@dataclass(frozen=True, slots=True)
class SelectorEntry:
    """One name of the list, with its port (``None``: any port)."""

    name: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector. ``dropped`` are entries beyond the 32 that NCCL reads."""

    text: str
    exclude: bool
    exact: bool
    entries: tuple[SelectorEntry, ...]
    dropped: int = 0

    def matches(self, device: str, port: int) -> bool:
        """Return whether NCCL would use ``device``:``port`` under this selector."""
        # An empty list matches everything, which "^" alone turns into nothing.
        hit = not self.entries or any(self._hits(entry, device, port) for entry in self.entries)
        return hit != self.exclude

    def _hits(self, entry: SelectorEntry, device: str, port: int) -> bool:
        if entry.port is not None and entry.port != port:
            return False
        return device == entry.name if self.exact else device.startswith(entry.name)


def parse_selector(text: str, *, nccl: tuple[int, ...] | None = None) -> Selector:
    """Return the selector that NCCL of version ``nccl`` makes of ``text``. Never fails, as in NCCL.

    An unknown version counts as one before ``RAIL_GRAMMAR``.
    """
    rest = text
    exclude = rest.startswith("^")
    rest = rest[1:] if exclude else rest
    exact = rest.startswith("=")
    rest = rest[1:] if exact else rest
    # An entry with an empty name is skipped by NCCL's tokenizer.
    names = [part for part in rest.split(",") if part and not part.startswith(":")]
    entries = tuple(_entry(part, nccl) for part in names[:MAX_ENTRIES])
    return Selector(text, exclude, exact, entries, max(0, len(names) - MAX_ENTRIES))


def _entry(part: str, nccl: tuple[int, ...] | None) -> SelectorEntry:
    name, colon, rest = part.partition(":")
    if not colon:
        return SelectorEntry(name, None)
    port_text = rest.split(":")[0]
    if not port_text and nccl is not None and nccl >= RAIL_GRAMMAR:
        return SelectorEntry(name, None)
    port = atoi(port_text)  # 0 where it is not a number: a port that no device has
    return SelectorEntry(name, None if port == -1 else port)  # NCCL keeps "any port" as -1


def render_selector(ports: Iterable[tuple[str, int]]) -> str:
    """Return the exact selector for these (device, port) pairs, in natural order: ``=mlx5_0:1,mlx5_1:1``."""
    ordered = sorted(set(ports), key=lambda pair: (natural_key(pair[0]), pair[1]))
    return "=" + ",".join(f"{device}:{port}" for device, port in ordered)
