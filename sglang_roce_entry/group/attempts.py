"""The attempts of a wait: how long and how often, what they need from outside, and why one failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TypeVar

Result = TypeVar("Result")

#: In less than this a try learns nothing.
SHORTEST_TRY_S = 0.05


@dataclass(frozen=True, slots=True)
class WaitPolicy:
    """How long and how often: seconds in all, the longest pause between two tries and the first one.

    Pauses double from ``first_s`` to ``cap_s``; each is between half of that and the whole, at random.
    """

    deadline_s: float
    cap_s: float = 0.5
    first_s: float = 0.1

    @classmethod
    def for_group(cls, deadline_s: float, size: int) -> WaitPolicy:
        """Return the policy of a worker in a group of ``size``.

        Beyond 50 nodes all pauses grow with the group, so that the load on the leader and the
        DNS server does not: a pause is 3/4 of the cap in the mean, hence ``size / (0.75 * cap)`` tries a second,
        133 at most, each a connect to every port and at most one look-up.
        """
        cap_s = max(0.5, size / 100)
        return cls(deadline_s, cap_s, cap_s / 5)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything outside a wait: clock, pause, and the log (``Log.say``)."""

    say: Callable[..., None]
    clock: Callable[[], float] = monotonic
    pause: Callable[[float], None] = sleep


def seconds(value_s: float) -> str:
    """Return a time for a sentence: whole seconds, and of less than ten also tenths."""
    return f"{value_s:.0f}" if value_s >= 10 else f"{value_s:.1f}".removesuffix(".0")


def within(limit_s: float) -> str:
    """Return a limit at the end of a sentence; nothing of one that left time for a single try."""
    return f" within {seconds(limit_s)} s" if limit_s >= SHORTEST_TRY_S else ""


class NotYet(Exception):
    """An attempt failed for a reason that may pass.

    ``look_at`` names what to check meanwhile; ``retry_in_s`` the earliest sensible next try, where the
    ordinary back-off may be too short.
    """

    def __init__(self, cause: str, look_at: str, retry_in_s: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.look_at = look_at
        self.retry_in_s = retry_in_s
