"""What NCCL's RAS answers to ``VERBOSE STATUS``, as a value; bytes in, nothing else.

The text protocol of NCCL 2.24 to 2.32 (``src/ras/client_support.cc``: ``rasClientRunInit``, ``rasClientRunComms``,
``rasClientBreakDownErrors``): a summary, a table of communicators, then ``Errors`` and ``Warnings``. The JSON of
2.28.9 is malformed as soon as a rank is missing. All of it may come from anybody: numbers are bounded, texts are
short and printable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.natural import whole_number
from sglang_roce_entry.output import squeezed

PROTOCOL = 2
#: What follows is of no interest: operation counts differ in every job that works.
END = b"\nWarnings\n========\n"
MOST_BYTES = 4 << 20
#: Of a line: NCCL's own buffers are half as long.
_LONGEST = 2048

ASYNCHRONOUS, INITIALIZATION = "asynchronous", "initialization"
_KINDS = {"Asynchronous": ASYNCHRONOUS, "Initialization": INITIALIZATION}
_STATUS = ("NOCOMM", "INIT", "RUNNING", "FINALIZE", "ABORT")
_ERRORS = ("OK", "MISMATCH", "ERROR", "INCOMPLETE")

_PROCESS = re.compile(r"  Process (\d+) on node (\S+) managing GPUs? .*")
_RANK = re.compile(r"  Rank (\d+)(?: reported ([^\[\]]+?))? -- GPU .* managed by process (\d+) on node (\S+)")
_UNKNOWN_RANK = re.compile(r"  Rank (\d+)(?: reported ([^\[\]]+?))? -- \[process information not found\]")
_COUNT = re.compile(r"  (\d+) job process(?: is|es are) considered dead .*")
_MISSING = re.compile(r"  Missing communicator data from (\d+) (job process|rank)(?:e?s)?")
_BREAK = re.compile(r"  (Asynchronous|Initialization) errors? on (\d+) ranks?")
_SAME = re.compile(r"  (\d+) ranks reported (.+)")
_HEAD = re.compile(r"#(\d+)-(\d+) \([0-9a-f]{1,16}\) (INCOMPLETE|ERROR)")


class NotRas(ValueError):
    """An answer that is none of a RAS that is known, with the reason."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the job, by its number on its own node and that node's address."""

    pid: int
    host: str


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank of a communicator of ``size`` ranks; ``process`` is ``None`` where NCCL does not know it."""

    number: int
    size: int
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that ranks of a communicator have reported. ``ranks`` are those that are named of ``count``."""

    kind: str  # ASYNCHRONOUS, INITIALIZATION
    count: int
    reason: str
    ranks: tuple[Rank, ...] = ()


@dataclass(frozen=True, slots=True)
class Communicators:
    """Communicators that are alike: how many, over how many nodes that answered, of how many ranks."""

    count: int
    nodes: int
    size: int
    status: str
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What RAS knows of the job. Processes and ranks are those that are named; the counts are complete."""

    nccl: str | None
    communicators: tuple[Communicators, ...] = ()
    dead_count: int = 0
    dead: tuple[Process, ...] = ()
    missing_count: int = 0
    missing: tuple[Process, ...] = ()
    silent: tuple[Rank, ...] = ()  # ranks of which there is no data, of the largest communicator that has such
    failures: tuple[Failure, ...] = ()

    def ranks_of(self, process: Process) -> tuple[Rank, ...]:
        """Return the ranks that a process is known to have."""
        return tuple(rank for rank in self.silent if rank.process == process)


def parse(answer: bytes) -> Status:
    """Return what an answer says, from the greeting on. Raises :class:`NotRas`, also where its end is missing."""
    texts = answer.partition(END)[0].decode("ascii", "replace").split("\n")
    lines = [text[:_LONGEST] for text in texts]
    greeting = lines[0].split(" ")
    if greeting[:2] != ["SERVER", "PROTOCOL"] or len(greeting) != 3:
        raise NotRas(f"the answer begins with {squeezed(lines[0])[:40]!r}")
    if greeting[2] != str(PROTOCOL):
        raise NotRas(f"its protocol is {squeezed(greeting[2])[:12]}, and {PROTOCOL} is known")
    refused = next((line for line in lines[1:4] if line.startswith("ERROR")), None)
    if refused is not None:
        raise NotRas(f"it says {squeezed(refused)[:80]!r}")
    if END not in answer:
        raise NotRas("the answer ends early")
    try:
        errors = lines.index("Errors")
    except ValueError:
        raise NotRas("the answer has no section on errors") from None
    version = next((line for line in lines[1:6] if line.startswith("NCCL version ")), "")
    communicators = _table(lines[:errors])
    return _Reader(communicators).read(_release(version), lines[errors + 2 :])


def _release(line: str) -> str | None:
    found = re.match(r"NCCL version ([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})", line)
    return found[1] if found else None


def _table(lines: list[str]) -> tuple[Communicators, ...]:
    rows: list[Communicators] = []
    head = next((number for number, line in enumerate(lines) if line.startswith("Group     Comms")), None)
    if head is None:
        return ()
    for line in lines[head + 2 :]:
        if not line:
            break
        fields = line.split()
        numbers = [whole_number(text) for text in (*fields[:3], *fields[4:6])]
        words = tuple(fields[7].split(",")) if len(fields) == 8 else ()
        if len(fields) != 8 or None in numbers or fields[6] not in _STATUS or not set(words) <= set(_ERRORS):
            raise NotRas(f"a row of its table is {squeezed(line)[:80]!r}")
        rows.append(Communicators(_number(fields[1]), _number(fields[2]), _number(fields[4]), fields[6], words))
    return tuple(rows)


def _number(text: str) -> int:
    value = whole_number(text)
    if value is None:
        raise NotRas(f"a number of it is {text[:20]!r}")
    return value


def _process(pid: str, host: str) -> Process:
    return Process(_number(pid), host if literal(host) is not None else "?")


class _Reader:
    """Reads the section on errors. A line that is not known is left out: it cannot make anybody dead."""

    def __init__(self, communicators: tuple[Communicators, ...]) -> None:
        self._sizes = [one.size for one in communicators]
        self._communicators = communicators
        self._dead_count = self._missing_count = 0
        self._processes: dict[str, list[Process]] = {"DEAD": [], "INCOMPLETE": []}
        self._silent: dict[str, list[Rank]] = {}
        self._failures: list[Failure] = []

    def read(self, nccl: str | None, lines: list[str]) -> Status:
        section, size = "", 0
        for line in lines:
            head = _HEAD.fullmatch(line)
            if head:
                section, size = line, self._size(_number(head[1]))
            elif line in ("INCOMPLETE", "DEAD"):
                section = line
            elif not line:
                section = ""
            elif section in self._processes:
                self._of_process(section, line)
            elif section.endswith(" INCOMPLETE"):
                rank = self._rank(line, size)
                if rank is not None:
                    self._silent.setdefault(section, []).append(rank)
            elif section.endswith(" ERROR"):
                self._of_error(line, size)
        return Status(
            nccl,
            self._communicators,
            self._dead_count,
            tuple(self._processes["DEAD"]),
            self._missing_count,
            tuple(self._processes["INCOMPLETE"]),
            tuple(next(iter(self._silent.values()), ())),
            tuple(self._failures),
        )

    def _size(self, group: int) -> int:
        return self._sizes[group] if group < len(self._sizes) else 0

    def _of_process(self, section: str, line: str) -> None:
        found = _PROCESS.fullmatch(line)
        if found:
            self._processes[section].append(_process(found[1], found[2]))
        elif section == "DEAD" and (counted := _COUNT.fullmatch(line)):
            self._dead_count = _number(counted[1])
        elif section == "INCOMPLETE" and (counted := _MISSING.fullmatch(line)):
            self._missing_count = _number(counted[1])

    def _of_error(self, line: str, size: int) -> None:
        begins = _BREAK.fullmatch(line)
        if begins:
            self._failures.append(Failure(_KINDS[begins[1]], _number(begins[2]), ""))
            return
        rank = self._rank(line, size)
        if not self._failures or (rank is None and not _SAME.fullmatch(line)):
            return
        last = self._failures[-1]
        same = _SAME.fullmatch(line)
        named = _RANK.fullmatch(line) or _UNKNOWN_RANK.fullmatch(line)
        said = (same[2] if same else named[2] if named else None) or ""
        ranks = (*last.ranks, rank) if rank is not None else last.ranks
        self._failures[-1] = Failure(last.kind, last.count, last.reason or squeezed(said)[:60], ranks)

    @staticmethod
    def _rank(line: str, size: int) -> Rank | None:
        found = _RANK.fullmatch(line)
        if found:
            return Rank(_number(found[1]), size, _process(found[3], found[4]))
        unknown = _UNKNOWN_RANK.fullmatch(line)
        return Rank(_number(unknown[1]), size) if unknown else None
