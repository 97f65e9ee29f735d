"""The verdict of a meeting: what differs, what is wrong, and the exit code; bounded on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from sglang_roce_entry.group.meeting.card import shown
from sglang_roce_entry.group.peers import Peers
from sglang_roce_entry.problems import OK, Problem, deciding, errors_first, warning

#: A verdict goes to every member: 16 KB to 10,000 of them are 160 MB, more would be felt.
MOST_PROBLEMS, MESSAGE_CHARACTERS = 24, 600
VERDICT_BYTES = 65536
#: Of these, the addresses of all members: a thousand nodes. The kernel passes 128 KiB in one variable.
MOST_PEERS_BYTES = 16384
_VALUE_SHOWN = 120
#: Of an older launcher that leads.
UNTOLD = Peers(why="the leader's launcher does not tell the members' addresses")


class BadVerdict(ValueError):
    """What came is not a verdict."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose value is not the same on all. ``odd``: who stands alone, ``None`` without a majority."""

    key: str
    severity: str  # "error", "warning", or "info": told, and no problem
    values: Mapping[str, tuple[int, ...]]
    odd: tuple[int, ...] | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all members are told: problems in the order in which they decide, every difference, and the peers."""

    problems: tuple[Problem, ...] = ()
    differences: tuple[Difference, ...] = ()
    peers: Peers = UNTOLD

    @property
    def exit_code(self) -> int:
        """The code with which every member ends, 0 if SGLang may start."""
        first = deciding(self.problems)
        return OK if first is None else first.exit_code


def write_verdict(verdict: Verdict) -> bytes:
    """Return the problems as one line of JSON, the errors first; differences are the leader's to show."""
    ordered = errors_first(verdict.problems)
    rows = [
        {
            "severity": one.severity,
            "code": one.code,
            "message": shown(one.message, MESSAGE_CHARACTERS),
            "hint": shown(one.hint, MESSAGE_CHARACTERS),
            "exit_code": one.exit_code,
        }
        for one in ordered[:MOST_PROBLEMS]
    ]
    while True:
        document = {
            "problems": rows,
            "more": len(ordered) - len(rows),
            "peers": {"addresses": verdict.peers.addresses, "why": verdict.peers.why},
        }
        line = json.dumps(document, separators=(",", ":")).encode()
        if len(line) <= VERDICT_BYTES:
            return line
        rows.pop()


def read_verdict(line: bytes) -> Verdict:
    """Return the verdict in ``line``, its texts safe to show. Raises ``BadVerdict``."""
    if len(line) > VERDICT_BYTES:
        raise BadVerdict(f"longer than {VERDICT_BYTES} bytes")
    try:
        document = json.loads(line)
        problems = [_problem(one) for one in document["problems"][:MOST_PROBLEMS]]
        more = int(document["more"])
        peers = _peers(document.get("peers"))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, OverflowError) as failure:
        raise BadVerdict(f"not a verdict: {type(failure).__name__}") from failure
    if more > 0:
        said = f"{more} more problems than are sent to every member"
        problems.append(warning("COMPARISON_INCOMPLETE", said, "see the log of the leader (index 0)"))
    return Verdict(tuple(problems), peers=peers)


def _peers(document: Any) -> Peers:
    if document is None:
        return UNTOLD
    addresses = tuple(ip_address(text).compressed for text in document["addresses"] if isinstance(text, str))
    if sum(len(one) + 1 for one in addresses) > MOST_PEERS_BYTES:
        raise ValueError("too many addresses")
    return Peers(addresses, shown(str(document["why"])))


def _problem(document: Any) -> Problem:
    severity, exit_code = document["severity"], document["exit_code"]
    if severity not in ("error", "warning") or not isinstance(exit_code, int) or not 0 <= exit_code <= 255:
        raise ValueError(severity)
    code, message, hint = (shown(str(document[key]), MESSAGE_CHARACTERS) for key in ("code", "message", "hint"))
    return Problem(severity, code, message, hint, exit_code)


def listed(indices: Sequence[int], pods: Mapping[int, str], most: int = 4) -> str:
    """Return indices with their pods, as a sentence names them: ``3 (sglang-0-3), 5 (sglang-0-5) and 2 more``."""
    named = [f"{index} ({pods[index]})" if pods.get(index) else f"{index}" for index in indices[:most]]
    rest = len(indices) - len(named)
    text = ", ".join(named)
    return f"{text} and {rest} more" if rest else text


def between(
    subject: str, values: Mapping[str, Sequence[int]], pods: Mapping[int, str]
) -> tuple[str, tuple[int, ...] | None]:
    """Return the sentence on a value that differs, and who stands alone (``None``: no value has a majority)."""
    ordered = sorted(values.items(), key=lambda one: (-len(one[1]), one[1][0]))
    total = sum(len(indices) for indices in values.values())
    most, majority = ordered[0]
    if total == 2 or 2 * len(majority) <= total:
        sides = [
            f"{_short(value)} on {listed(indices, pods)}" for value, indices in sorted(ordered, key=_by_index)[:4]
        ]
        rest = f" and {len(ordered) - 4} other values" if len(ordered) > 4 else ""
        return f"{subject} differs: {', '.join(sides)}{rest}", None
    odd = [f"{_short(value)} on {listed(indices, pods)}" for value, indices in ordered[1:4]]
    rest = f" and {len(ordered) - 4} other values" if len(ordered) > 4 else ""
    others = tuple(sorted(index for _, indices in ordered[1:] for index in indices))
    return f"{subject} is {', '.join(odd)}{rest}, and {_short(most)} on the other {len(majority)}", others


def _by_index(one: tuple[str, Sequence[int]]) -> int:
    return one[1][0]


def _short(value: str) -> str:
    return value if len(value) <= _VALUE_SHOWN else f"{value[:_VALUE_SHOWN]}..."
