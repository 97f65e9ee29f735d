"""What is already decided for a variable, and what a decider wants for it.

A decider returns wishes; ``plan.merge`` alone knows which of all these wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

USER, FILE, DISCOVERED, DEFAULT, WITHHELD = "user", "file", "discovered", "default", "withheld"


@dataclass(frozen=True, slots=True)
class Given:
    """A value decided before us: ``source`` is ``user`` (the pod) or ``file`` (NCCL's), ``where`` for messages."""

    name: str
    value: str
    source: str
    where: str

    def __str__(self) -> str:
        """Return ``NAME=value (where)``, as a message begins."""
        return f"{self.name}={self.value} ({self.where})"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a decider wants for one variable. ``value`` is ``None``: unset, for ``reason``.

    Without a reason it wants nothing: a given value is shown, and that is all. ``by_flag``: the
    operator has written it on the launcher's own command line, which beats the pod's value.
    """

    name: str
    value: str | None
    source: str
    reason: str
    by_flag: bool = False


def found(name: str, value: str, reason: str) -> Wish:
    """Return the wish for a value that was read from this machine."""
    return Wish(name, value, DISCOVERED, reason)


def unset(name: str, reason: str) -> Wish:
    """Return the wish to leave a variable unset."""
    return Wish(name, None, WITHHELD, reason)


def shown(name: str) -> Wish:
    """Return no wish: only the value that was given, if any, is shown."""
    return Wish(name, None, WITHHELD, "")


def traffic(names: Iterable[str], *, used: bool) -> list[Wish]:
    """Return the wishes for a library's traffic class and service level; ``used``: by this launch."""
    why = "a pod cannot see the traffic class of its fabric: ask the network team"
    return [unset(name, why) if used else shown(name) for name in names]
