"""Who is missing: by index and, where the group's source names its pods, by name with what DNS says of it.

And who has gone ahead: a member whose SGLang was started by the meeting of a leader that is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sglang_roce_entry.group.endpoint import ends_in_its_number, literal
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.names import system_addresses
from sglang_roce_entry.natural import runs_of

#: So many are named in a sentence, and looked up for it: the first of them tell the cause.
MOST_NAMED = 8
#: Where all who are absent may have gone ahead every name counts: so many are looked up at a time, so often.
NAMES_AT_ONCE, LOOK_UP_EVERY_S = 64, 1.0


FIRST_STATUS_S, STATUS_EVERY_S = 1.0, 30.0
#: So long before a status DNS is asked what it will say.
LOOK_UP_S = 0.9


#: torch's client retries about once a second. A card may still come from a launcher that dials again.
RETRIES_WITHIN_S, NO_CARD_FOR_S = 5.0, 10.0
AHEAD = "ahead"


@dataclass(frozen=True, slots=True)
class Names:
    """What is known of who is absent: the host name of an index, what is known of a name, how to ask for some.

    ``addresses`` are those that DNS gave for a name, ``None`` where it has not been asked.
    """

    name_of: Callable[[int], str]
    known: Callable[[str], str]
    look_up: Callable[[Sequence[str]], None]
    addresses: Callable[[str], Sequence[str] | None] = lambda _name: None


@dataclass(frozen=True, slots=True)
class Absent:
    """A member that is not there; ``known`` is what DNS or its call has told of it.

    ``state``: ``missing``, ``left`` or ``ahead``.
    """

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
    in the leader's Service.
    """
    label, dot, domain = (identity.leader or "").partition(".")
    stem, _, number = label.rpartition("-")
    if not ends_in_its_number(label) or not dot or literal(identity.leader or "") is not None:
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
    _known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _thread: threading.Thread | None = None

    def ask(self, names: Sequence[str]) -> None:
        """Look ``names`` up in the background, unless the last ones still are."""
        if names and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, args=(names,), name="who is missing", daemon=True)
            self._thread.start()

    def _run(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                self._known[name] = tuple(map(str, self.query(name)))
            except (OSError, UnicodeError):
                self._known[name] = ()

    def known(self, name: str) -> str:
        """Return what is known of ``name``, as the end of a sentence."""
        addresses = self.addresses(name)
        if addresses is None:
            return "has not called"
        if not addresses:
            return "does not resolve (not scheduled, or not started yet)"
        return (
            f"resolves to {', '.join(addresses)}, but has not called (image pull, another network, or its "
            "launcher refused)"
        )

    def addresses(self, name: str) -> tuple[str, ...] | None:
        """Return what DNS gave for ``name``, ``None`` where it has not answered yet."""
        return self._known.get(name)


class Roll:
    """Who of a group has not called; ``left`` maps indices to the address from which they called and went away."""

    def __init__(self, size: int, names: Names, now: float) -> None:
        self.left: dict[int, str] = {}
        self._size, self._names = size, names
        self._due, self._asked = now + FIRST_STATUS_S, False
        self._retrying: dict[str, float] = {}
        self._next_look_up, self._turn = now, 0
        self._last_card = now

    def absent(self, present: Collection[int]) -> tuple[Absent, ...]:
        """Return who is not there."""
        return tuple(self._absent(index) for index in range(1, self._size) if index not in present)

    def _absent(self, index: int) -> Absent:
        name = self._names.name_of(index)
        pod = name.partition(".")[0]
        if index in self.left:
            return Absent(index, pod, "left", f"called from {self.left[index]} and went away")
        return Absent(index, pod, "missing", self._names.known(name) if name else "has not called")

    def came(self, index: int, now: float) -> None:
        """Take note of a card."""
        self.left.pop(index, None)
        self._last_card = now

    def retries(self, address: str, now: float) -> None:
        """Take note that torch's client of ``address`` has looked for its store here."""
        if address in self._retrying or len(self._retrying) <= self._size:
            self._retrying[address] = now

    def ahead(self, now: float, present: Collection[int], addresses: Collection[str]) -> tuple[Absent, ...]:
        """Return the absent who need not be waited for, as SGLang of theirs waits for its store already.

        Each counts while it retries, has sent no card for a while, is at no member's address, and, where the
        names of the group are known, is what a missing member's name resolves to: SGLang of the group before may
        still retry. Without names there must be as many as are missing. Those that cannot be told apart are all
        or none.
        """
        if not self._retrying:
            return ()
        self._look_up_in_turn(now, present)
        if now < self._last_card + NO_CARD_FOR_S:
            return ()
        there = [
            address
            for address, seen in self._retrying.items()
            if now - seen <= RETRIES_WITHIN_S and address not in addresses
        ]
        gone = []
        for index in (index for index in range(1, self._size) if index not in present):
            name = self._names.name_of(index)
            match = [one for one in there if one in (self._names.addresses(name) or ())] if name else there[:1]
            if not match:
                return ()
            there.remove(match[0])
            said = f"SGLang of {match[0]} waits for its store already"
            gone.append(Absent(index, name.partition(".")[0], AHEAD, said))
        return tuple(gone)

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

    def _look_up_in_turn(self, now: float, present: Collection[int]) -> None:
        """Have the names of all who are absent looked up in turn, those that nobody has asked for first."""
        if now < self._next_look_up:
            return
        self._next_look_up = now + LOOK_UP_EVERY_S
        absent = (index for index in range(1, self._size) if index not in present)
        names = [name for name in map(self._names.name_of, absent) if name]
        new = [name for name in names if self._names.addresses(name) is None]
        if not new:
            self._turn = self._turn + NAMES_AT_ONCE if self._turn + NAMES_AT_ONCE < len(names) else 0
        self._names.look_up(new[:NAMES_AT_ONCE] or names[self._turn : self._turn + NAMES_AT_ONCE])


def sentence(absent: Sequence[Absent], size: int) -> str:
    """Return who is missing, as one sentence."""
    named = "; ".join(map(str, absent[:MOST_NAMED]))
    others = runs_of(one.index for one in absent[MOST_NAMED:])
    rest = f"; and {', '.join(others[:20])}{', ...' if len(others) > 20 else ''}" if others else ""
    return f"{size - len(absent)} of {size} are here; missing: {named}{rest}"
