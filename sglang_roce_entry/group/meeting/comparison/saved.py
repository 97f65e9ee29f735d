"""A meeting as a file: what a rehearsal has gathered, to be compared again elsewhere. Bytes and values, no file.

The leader knows every card, its file is all of the meeting. Another member was told a document and no card: its
file holds that document. Cards are as they travelled, with digests in the place of secrets and without the nonce
that keyed them. Unknown keys are ignored, a missing one is not known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sglang_roce_entry import __version__
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting.card import MOST_KEYS, MOST_RAILS, VALUE_CHARACTERS, BadCard, read_card, shown
from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.parts import MeetingFileError, Part, read_file
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.comparison.verdict import MESSAGE_CHARACTERS, MOST_PROBLEMS
from sglang_roce_entry.group.meeting.missing import Absent
from sglang_roce_entry.group.meeting.proof.pairs import (
    BOTH,
    FAILED,
    FAR,
    LOSSY,
    NEAR,
    NOT_TRIED,
    PROVEN,
    Nodes,
    Outcome,
    Pair,
    nodes_of,
)
from sglang_roce_entry.group.meeting.proof.relay import Proven
from sglang_roce_entry.group.meeting.terms import COMMONS, Gathered
from sglang_roce_entry.problems import Problem

FORMAT = 1
#: A rail is proven with two neighbours, and some are tried with others.
_MOST_OF_A_NODE = 8 * MOST_RAILS
_MOST_NODES, _LONGEST_S, _LAST_CLOCK_S = 16_384, 1e9, 1e11
_PROBLEM = ("severity", "code", "message", "hint", "exit_code")


@dataclass(frozen=True, slots=True)
class Saved:
    """What a rehearsal leaves: ``gathered`` on the leader, elsewhere only the ``document`` that was shown.

    ``further`` are problems that do not come of what was gathered but of the leader itself. ``deadline_s`` and
    ``strict`` are those of its settings, ``launcher`` its release; ``name``: the file's.
    """

    identity: Identity | None
    gathered: Gathered | None
    document: Mapping[str, Any] | None
    deadline_s: float
    strict: bool
    further: tuple[Problem, ...] = ()
    launcher: str = __version__
    name: str = ""

    def damaged(self, why: str) -> MeetingFileError:
        """Return the error for a part that only its reader can judge."""
        return MeetingFileError(self.name, f"is damaged: {why}")


# ----------------------------------------------------------------------------------------- writing


def write_saved(saved: Saved) -> bytes:
    """Return the file: one JSON object."""
    who = saved.identity
    document: dict[str, Any] = {
        "format": FORMAT,
        "launcher": saved.launcher,
        "identity": {"leader": who.leader, "size": who.size, "index": who.index, "source": who.source}
        if who is not None
        else None,
        "deadline_s": saved.deadline_s,
        "strict": saved.strict,
    }
    gathered = saved.gathered
    if gathered is None:
        document["document"] = saved.document
    else:
        document |= {
            "members": [
                {
                    "address": member.address,
                    "greeted_at_s": member.greeted_at_s,
                    "received_at_s": member.received_at_s,
                    "card": json.loads(member.card.line()),
                }
                for member in gathered.members
            ],
            "commons": {digest: dict(common) for digest, common in gathered.commons.items()},
            "absent": [
                {"index": one.index, "pod": one.pod, "state": one.state, "known": one.known}
                for one in gathered.absent
            ],
            "reach": [
                {"from": one.origin, "to": one.target, "ok": one.ok, "detail": one.detail, "seen": one.seen}
                for one in gathered.edges
            ],
            **_proof_rows(gathered.proven),
            "overdue": gathered.overdue,
            "problems": [{name: getattr(one, name) for name in _PROBLEM} for one in saved.further[:MOST_PROBLEMS]],
        }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _proof_rows(proven: Proven | None) -> dict[str, list[dict[str, Any]]]:
    """Return what came of each rail; what two ends said to each other was never kept."""
    if proven is None:
        return {}
    return {
        key: [{**_ends(pair), **asdict(outcome)} for pair, outcome in sorted(outcomes.items())]
        for key, outcomes in (("rails", proven.outcomes), ("trials", proven.trials))
    }


def _ends(pair: Pair) -> dict[str, int]:
    far = {"to_position": pair.ports[1][1]} if pair.across else {}
    return {"position": pair.position, "from": pair.near, "to": pair.far, **far}


# ----------------------------------------------------------------------------------------- reading


def read_saved(name: str, data: bytes) -> Saved:
    """Return the meeting in ``data``, the content of the file ``name``, its texts safe to show.

    Raises :class:`MeetingFileError`.
    """
    file = read_file(name, data)
    version = file.value("format")
    if isinstance(version, int) and version > FORMAT:
        raise MeetingFileError(
            name,
            f"was saved by a newer sglang-roce-entry (format {version}, this program reads {FORMAT})",
            "replay it with the release that wrote it, or a later one",
        )
    if version != FORMAT or isinstance(version, bool):
        raise MeetingFileError(name, f"has format {shown(repr(version), 32)}, this program reads format {FORMAT}")
    members = file.parts("members", _MOST_NODES)
    document = file.value("document")
    if not members and not isinstance(document, dict):
        raise MeetingFileError(name, "holds neither cards nor a document")
    return Saved(
        identity=_identity(file),
        gathered=_gathered(file, members) if members else None,
        document=document if not members else None,
        deadline_s=file.number("deadline_s", _LONGEST_S) or 0.0,
        strict=file.typed("strict", bool) or False,
        further=tuple(_problem(one) for one in file.parts("problems", MOST_PROBLEMS)),
        launcher=file.text("launcher"),
        name=name,
    )


def _identity(file: Part) -> Identity | None:
    one = file.part("identity")
    if one is None:
        return None
    size = one.whole("size", 1)
    leader = one.text("leader") if one.value("leader") is not None else None
    return Identity(leader, size, one.whole("index"), one.text("source"))


def _gathered(file: Part, parts: Sequence[Part]) -> Gathered:
    members, commons = [_member(one) for one in parts], _commons(file)
    return Gathered(
        members=members,
        commons=commons,
        absent=tuple(
            Absent(one.whole("index"), one.text("pod"), one.text("state"), one.text("known"))
            for one in file.parts("absent", _MOST_NODES)
        ),
        edges=tuple(
            Edge(
                one.whole("from"),
                one.whole("to"),
                one.typed("ok", bool) or False,
                one.text("detail"),
                one.text("seen") if one.value("seen") is not None else None,
            )
            for one in file.parts("reach", 2 * _MOST_NODES)
        ),
        overdue=file.typed("overdue", bool) or False,
        proven=_proven(file, nodes_of(members, commons)) if file.value("rails") is not None else None,
    )


def _proven(file: Part, nodes: Nodes) -> Proven:
    outcomes, trials = (
        {_pair(one, nodes): _outcome(one) for one in file.parts(key, MOST_RAILS * _MOST_NODES)}
        for key in ("rails", "trials")
    )
    most = max(Counter(index for pair in (*outcomes, *trials) for index, _ in pair.ports).values(), default=0)
    if most > _MOST_OF_A_NODE:
        raise file.bad("rails")
    return Proven(outcomes, trials, nodes)


def _pair(one: Part, nodes: Nodes) -> Pair:
    position = one.whole("position")
    across = one.whole("to_position") - position if one.value("to_position") is not None else 0
    pair = Pair(position, one.whole("from"), one.whole("to"), across)
    if any(position >= len(nodes.rails.get(index, ())) for index, position in pair.ports):
        raise one.bad("position")
    return pair


def _outcome(one: Part) -> Outcome:
    return Outcome(
        one.choice("status", (PROVEN, LOSSY, FAILED, NOT_TRIED)),
        one.text("cause"),
        one.choice("end", ("", NEAR, FAR, BOTH)),
        one.choice("direction", ("", "out", "in", BOTH)),
        one.text("detail"),
        one.number("seconds", _LONGEST_S),
        fatal=one.typed("fatal", bool) or False,
        again=one.typed("again", bool) or False,
    )


def _problem(one: Part) -> Problem:
    severity, exit_code = one.choice("severity", ("error", "warning")), one.whole("exit_code")
    if exit_code > 255:
        raise one.bad("exit_code")
    code, message, hint = (
        shown(one.typed(key, str) or "", MESSAGE_CHARACTERS) for key in ("code", "message", "hint")
    )
    return Problem(severity, code, message, hint, exit_code)


def _member(one: Part) -> Member:
    card = one.typed("card", dict)
    try:
        read = read_card(json.dumps(card, separators=(",", ":")).encode())
    except BadCard as failure:
        raise MeetingFileError(one.name, f"is damaged: the card of {one.what}: {failure}") from failure
    now_s = read.own.clock_s or 0.0
    greeted, received = (one.number(key, _LAST_CLOCK_S) for key in ("greeted_at_s", "received_at_s"))
    return Member(
        read,
        one.text("address"),
        greeted if greeted is not None else now_s,
        received if received is not None else now_s,
    )


def _commons(file: Part) -> dict[str, dict[str, str]]:
    """Return the texts by their digest, which is taken as a name: a value may have been edited to try it out."""
    found = file.part("commons")
    commons: Mapping[str, Any] = found.values if found is not None else {}
    if len(commons) > COMMONS + 1:
        raise file.bad("commons")
    for common in commons.values():
        if not isinstance(common, dict) or len(common) > MOST_KEYS:
            raise file.bad("commons")
        if not all(isinstance(value, str) for value in common.values()):
            raise file.bad("commons")
    return {
        shown(digest): {shown(key): shown(value, VALUE_CHARACTERS) for key, value in common.items()}
        for digest, common in commons.items()
    }
