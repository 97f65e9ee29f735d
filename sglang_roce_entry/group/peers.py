"""Whom the sockets of a group's nodes may accept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peers:
    """Whom SGLang's sockets may accept: addresses, the same on all members, or ``why`` they are not known.

    ``source`` is this node's own among them, as the others see it.
    """

    addresses: tuple[str, ...] = ()
    why: str = ""
    source: str | None = None
