"""Who is missing: by index and, where the group's source names its pods, by name with what DNS says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.names import system_addresses

#: So many are named in a sentence, and looked up: the first of them tell the cause.
MOST_NAMED = 8


FIRST_STATUS_S, STATUS_EVERY_S = 1.0, 30.0
#: So long before a status DNS is asked what it will say.
LOOK_UP_S = 0.9


@dataclass(frozen=True, slots=True)
class Names:
    """What is known of who is absent: the host name of an index, what is known of a name, how to ask for some."""

    name_of: Callable[[int], str]
    known: Callable[[str], str]
    look_up: Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Absent:
    """A member that is not there. ``state``: ``missing`` or ``left``; ``known``: what DNS or its call has told."""

    index: int
    pod: str
    state: str
    known: str

    def __str__(self) -> str:
        """Return it as a sentence names it."""
        named = f"{self.index} ({self.pod})" if self.pod else f"{self.index}"
        return f"{named} {self.known}" if self.known else named


def pod_names(identity: Identity, own_name: str, environ: Mapping[str, str]) -> Callable[[int], str]:
    """Return the host name of each index, as its source gives it; an empty text where it does not.

    LeaderWorkerSet names workers ``<leader>-<index>`` (pod_controller.go), an Indexed Job ``<job>-<index>``, both
    in the leader's Service. A leader whose name does not end in its number has a hash in the names of its workers.
    """
    label, dot, domain = (identity.leader or "").partition(".")
    stem, _, number = label.rpartition("-")
    numbered = bool(stem) and number.isascii() and number.isdecimal()
    if not numbered or not dot or literal(identity.leader or "") is not None:
        return lambda _index: ""
    if "LWS_*" in identity.source:
        return lambda index: f"{label}-{index}.{domain}" if index else f"{label}.{domain}"
    if environ.get("JOB_COMPLETION_INDEX", "") and own_name == f"{stem}-{identity.index}" and number == "0":
        return lambda index: f"{stem}-{index}.{domain}"
    return lambda _index: ""


@dataclass(slots=True)
class Lookups:
    """What DNS says of names, asked beside everything else: a resolver that hangs keeps nobody from meeting."""

    query: Callable[[str], Sequence[object]] = system_addresses
    _known: dict[str, str] = field(default_factory=dict)
    _thread: threading.Thread | None = None

    def ask(self, names: Sequence[str]) -> None:
        """Look ``names`` up in the background, unless the last ones still are."""
        if names and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, args=(names,), name="who is missing", daemon=True)
            self._thread.start()

    def _run(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                self._known[name] = ", ".join(map(str, self.query(name)))
            except (OSError, UnicodeError):
                self._known[name] = ""

    def known(self, name: str) -> str:
        """Return what is known of ``name``, as the end of a sentence."""
        addresses = self._known.get(name)
        if addresses is None:
            return "has not called"
        if not addresses:
            return "does not resolve (not scheduled, or not started yet)"
        return (
            f"resolves to {addresses}, but has not called (image pull, another network, or its launcher refused)"
        )


class Roll:
    """Who of a group has not called; ``left`` maps indices to the address from which they called and went away."""

    def __init__(self, size: int, names: Names, now: float) -> None:
        self.left: dict[int, str] = {}
        self._size, self._names = size, names
        self._due, self._asked = now + FIRST_STATUS_S, False

    def absent(self, present: Collection[int]) -> tuple[Absent, ...]:
        """Return who is not there."""
        return tuple(self._absent(index) for index in range(1, self._size) if index not in present)

    def _absent(self, index: int) -> Absent:
        name = self._names.name_of(index)
        pod = name.partition(".")[0]
        if index in self.left:
            return Absent(index, pod, "left", f"called from {self.left[index]} and went away")
        return Absent(index, pod, "missing", self._names.known(name) if name else "has not called")

    def status(self, now: float, present: Collection[int]) -> str | None:
        """Return the sentence that is due now, a second after the beginning and then every 30 s."""
        if now >= self._due - LOOK_UP_S and not self._asked:
            self._asked = True
            self._look_up(present)
        if now < self._due:
            return None
        self._due, self._asked = now + STATUS_EVERY_S, False
        absent = self.absent(present)
        return sentence(absent, self._size) if absent else None

    def _look_up(self, present: Collection[int]) -> None:
        """Have the names of the first who are absent looked up, for the status that is due soon."""
        absent = (index for index in range(1, self._size) if index not in present and index not in self.left)
        names = map(self._names.name_of, islice(absent, MOST_NAMED))
        self._names.look_up([name for name in names if name])


def sentence(absent: Sequence[Absent], size: int) -> str:
    """Return who is missing, as one sentence."""
    named = "; ".join(map(str, absent[:MOST_NAMED]))
    others = runs_of(one.index for one in absent[MOST_NAMED:])
    rest = f"; and {', '.join(others[:20])}{', ...' if len(others) > 20 else ''}" if others else ""
    return f"{size - len(absent)} of {size} are here; missing: {named}{rest}"


def runs_of(indices: Iterable[int]) -> list[str]:
    """Return ``9-15`` and ``17`` of sorted indices."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return [f"{first}-{last}" if last > first else f"{first}" for first, last in runs]
