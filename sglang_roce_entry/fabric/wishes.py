"""What is decided already of a variable, and what a decider wants of it.

A decider returns wishes; ``plan.merge`` alone knows which of all these wins.
"""

from __future__ import annotations

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
    """What a decider wants of one variable. ``value`` is ``None``: unset, for ``reason``.

    Without a reason either it wants nothing: a given value is shown, and nothing else. ``by_flag``: the
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
