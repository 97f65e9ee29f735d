"""A meeting as the JSON contract of ``--rehearse=json``, format 1, and as a table made of that document alone.

The leader makes the document, the others are sent it: every member shows the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.group.meeting.card import shown as safe_text
from sglang_roce_entry.group.meeting.comparison.compare import Member
from sglang_roce_entry.group.meeting.comparison.reach import Edge
from sglang_roce_entry.group.meeting.comparison.saved import Saved
from sglang_roce_entry.group.meeting.comparison.verdict import Verdict
from sglang_roce_entry.group.meeting.missing import Absent
from sglang_roce_entry.group.meeting.terms import Gathered
from sglang_roce_entry.natural import runs_of
from sglang_roce_entry.output import one_line, squeezed
from sglang_roce_entry.plan.inputs import as_problem
from sglang_roce_entry.problems import OK, EntryError
from sglang_roce_entry.report.contract import is_rehearsal
from sglang_roce_entry.report.folding import shortest_names
from sglang_roce_entry.report.json import identity_document, problem_document
from sglang_roce_entry.report.rail_table import (
    across_document,
    across_lines,
    rail_lines,
    rail_rows,
    rails_document,
)

#: What the document says of releases, in this order.
_VERSIONS = ("sglang", "nccl", "torch", "mooncake", "nvshmem", "driver", "launcher")
TITLES = {"sglang": "SGLang", "nccl": "NCCL", "nvshmem": "NVSHMEM", "mooncake": "Mooncake"}
#: The columns of the table.
_TITLES = (
    *("GPUs", "rails", "Gb/s", "RoCE MTU", "family", "GID index"),
    *(TITLES.get(one, one) for one in _VERSIONS),
)
PRESENT, REFUSED = "present", "refused"
_MOST_ROWS, _MOST_NAMES, _LONGEST_TEXT = 64, 6, 2000
#: A node's index and pod.
_Named = Mapping[str, Any]


def document(
    identity: Identity | None,
    gathered: Gathered,
    verdict: Verdict,
) -> dict[str, Any]:
    """Return the contract."""
    return {
        "format": 1,
        "identity": identity_document(identity) if identity is not None else None,
        "nodes": list(_nodes(gathered)),
        "differences": [
            {
                "key": one.key,
                "severity": one.severity,
                "values": {value: list(indices) for value, indices in one.values.items()},
                "odd": list(one.odd) if one.odd is not None else None,
                "code": one.code,
                "message": one.message,
            }
            for one in verdict.differences
        ],
        "reach": [_edge(edge) for edge in gathered.edges],
        "rails": rails_document(gathered.members, gathered.proven),
        **across_document(gathered.proven),
        "problems": [problem_document(problem) for problem in verdict.problems],
        "exit_code": verdict.exit_code,
    }


def refusal_document(failure: EntryError) -> dict[str, Any]:
    """Return the same where a rehearsal could not begin: nothing is known but the one problem."""
    return document(None, Gathered((), {}, (), (), overdue=False), Verdict((as_problem(failure),)))


def _nodes(gathered: Gathered) -> Iterator[dict[str, Any]]:
    def index_of(one: Member | Absent) -> int:
        return one.card.index if isinstance(one, Member) else one.index

    those: list[Member | Absent] = [*gathered.members, *gathered.absent]
    for one in sorted(those, key=index_of):
        yield _absent(one) if isinstance(one, Absent) else _node(one, gathered.commons.get(one.card.digest, {}))


def _edge(edge: Edge) -> dict[str, Any]:
    return {"from": edge.origin, "to": edge.target, "ok": edge.ok, "detail": edge.detail}


def _node(member: Member, common: Mapping[str, str]) -> dict[str, Any]:
    card = member.card
    refusal, gpus = card.refusal, common.get("gpus", "")
    return {
        "index": card.index,
        "pod": card.pod,
        "state": PRESENT if refusal is None else REFUSED,
        "address": card.own.address or member.address,
        "gpus": int(gpus) if gpus.isdecimal() and len(gpus) < 6 else None,
        "rails": [
            {
                "position": position,
                "device": rail.device,
                "port": rail.port,
                "network": rail.network,
                "gid": rail.gid,
                "gid_index": rail.gid_index,
                "rate_gbps": rail.rate_gbps,
                "roce_mtu": rail.roce_mtu,
                "lid": rail.lid,
            }
            for position, rail in enumerate(card.own.rails)
        ],
        "versions": {name: common[name] for name in _VERSIONS if name in common},
        "refusal": None
        if refusal is None
        else {"code": refusal.code, "message": refusal.message, "exit_code": refusal.exit_code},
    }


def _absent(one: Absent) -> dict[str, Any]:
    nothing: dict[str, Any] = {"address": None, "gpus": None, "rails": [], "versions": {}, "refusal": None}
    return {"index": one.index, "pod": one.pod, "state": one.state, **nothing}


def received_document(text: bytes | None, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the document that the leader has sent, with this member's identity; ``own`` where it is none.

    Whoever answers on the leader's port may have sent it: every text in it is made safe to show.
    """
    if text is None:
        return own
    try:
        received = {**_safe(json.loads(text)), "identity": own["identity"]}
        document = {name: received[name] for name in own}  # a newer leader knows more
    except (ValueError, TypeError, KeyError, RecursionError):
        return own
    return document if is_rehearsal(document) else own


def replayed_document(saved: Saved) -> Mapping[str, Any]:
    """Return the document that a member had saved, safe to show. Raises ``MeetingFileError`` where it is none."""
    nothing = document(saved.identity, Gathered((), {}, (), (), overdue=False), Verdict())
    shown = received_document(json.dumps(saved.document).encode(), nothing)
    code = shown["exit_code"]
    if shown is nothing or isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255:
        raise saved.damaged("its document is none of a rehearsal")
    return shown


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return safe_text(value, _LONGEST_TEXT)
    if isinstance(value, list):
        return [_safe(one) for one in value]
    return {safe_text(name): _safe(one) for name, one in value.items()} if isinstance(value, dict) else value


# ----------------------------------------------------------------------------------------- text


def as_text(shown: Mapping[str, Any]) -> str:
    """Return a document for people: a row for each kind of node, then what differs, and how it ends."""
    lines = ["Group", *(f"  {line}" for line in table_lines(shown)), "", "Problems"]
    for problem in shown["problems"]:
        lines.append(f"  {problem['severity'].upper()} {problem['code']}: {squeezed(problem['message'])}")
        if problem["hint"]:
            lines.append(f"      fix: {squeezed(problem['hint'])}")
    if not shown["problems"]:
        lines.append("  none")
    return "\n".join([*lines, "", _ending(shown)]) + "\n"


def table_lines(shown: Mapping[str, Any]) -> list[str]:
    """Return the table of the nodes: what is the same on all in one line, and a row for each kind of the rest.

    So 64 nodes that agree are two lines.
    """
    total, nodes, rows, others = 0, list[_Named](), list[tuple[str, ...]](), dict[str, list[_Named]]()
    alike: dict[tuple[str, ...], tuple[str, ...]] = {}
    for node in shown["nodes"]:
        total, named = total + 1, {"index": node["index"], "pod": node["pod"]}
        if node["state"] in (PRESENT, REFUSED):
            cells = _cells(node)
            nodes.append(named)
            rows.append(alike.setdefault(cells, cells))
        if node["state"] != PRESENT:
            others.setdefault(node["state"], []).append(named)
    return [
        one_line(line)
        for line in (
            _first_line(shown["identity"], nodes, total),
            *_kinds(nodes, rows),
            *(f"{state}: {_indices_and_pods(of)}" for state, of in others.items()),
            *(
                f"{one['from']} does not reach {one['to']}: {squeezed(str(one['detail']))}"
                for one in shown["reach"]
                if not one["ok"]
            ),
            *rail_lines(shown["rails"]),
            *across_lines(shown.get("across", ())),
        )
    ]


def _kinds(nodes: Sequence[_Named], cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Return what is the same on all ``nodes``, and a row for each kind of the rest."""
    columns = dict(zip(_TITLES, zip(*dict.fromkeys(cells), strict=True), strict=bool(cells)))
    same = [_said(title, column[0]) for title, column in columns.items() if len(set(column)) == 1]
    varying = [place for place, column in enumerate(columns.values()) if len(set(column)) > 1]
    same = [text for text in same if text]
    lines = [f"{'all of them' if len(nodes) > 1 else 'it has'}: {', '.join(same)}"] if same else []
    kinds: dict[tuple[str, ...], list[_Named]] = {}
    for node, row in zip(nodes, cells, strict=True):
        kinds.setdefault(tuple(row[place] for place in varying), []).append(node)
    if varying:
        shown_kinds = list(kinds.items())[:_MOST_ROWS]
        rows = [("index", "pod", *(_TITLES[place] for place in varying))]
        rows += [(ranges(one["index"] for one in of), _pods(of), *kind) for kind, of in shown_kinds]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [f"and {len(kinds) - _MOST_ROWS} more kinds of nodes"] if len(kinds) > _MOST_ROWS else []
    return lines


def _first_line(identity: Mapping[str, Any] | None, here: Sequence[_Named], known: int) -> str:
    """Return how many are here. A worker whom the leader has told nothing has a row for itself only."""
    if not here:
        return "no node is here"
    if identity is not None and known == 1 < identity["size"]:
        return f"of {identity['size']} nodes this one: {_pods(here)}"
    return f"{len(here)} of {known} nodes: {_pods(here)}"


def held_lines(gathered: Gathered) -> list[str]:
    """Return the same table of what a leader has gathered, without its document: 10,000 nodes' is 40 MB."""
    rails = rail_rows(gathered.members, gathered.proven)
    shown = {
        "identity": None,
        "nodes": _nodes(gathered),
        "reach": (_edge(edge) for edge in gathered.edges if not edge.ok),
        "rails": list(rails if gathered.proven is not None else islice(rails, 1)),  # all are alike
        **across_document(gathered.proven),
    }
    return table_lines(shown)


def _cells(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the table shows of one node, in the order of ``_TITLES``; ``-`` is not known."""
    rails = node["rails"]
    return (
        str(node["gpus"]) if node["gpus"] is not None else "-",
        str(len(rails)),
        _joined(f"{rail['rate_gbps']:g}" for rail in rails if rail["rate_gbps"] is not None),
        _joined(str(rail["roce_mtu"]) for rail in rails if rail["roce_mtu"] is not None),
        _joined(_family(rail) for rail in rails if rail["gid"]),
        _joined(str(rail["gid_index"]) for rail in rails if rail["gid_index"] is not None),
        *(node["versions"].get(name, "-") for name in _VERSIONS),
    )


def _family(rail: Mapping[str, Any]) -> str:
    if rail.get("lid") is not None:  # older launchers say nothing of it
        return "InfiniBand"
    return "IPv6" if ":" in rail["gid"] else "IPv4"


def _joined(texts: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(texts)) or "-"


def _said(title: str, cell: str) -> str:
    """Return a column that is the same on all as part of a sentence; nothing of what nobody knows."""
    if cell == "-":
        return ""
    if title == "family":
        return cell
    return f"{cell} {title}" if title in ("GPUs", "rails", "Gb/s") else f"{title} {cell}"


def pods_of(nodes: Iterable[Mapping[str, Any]]) -> str:
    """Return the names of some nodes' pods in short, empty where none is known."""
    names = shortest_names(node["pod"] for node in nodes if node["pod"])
    return ", ".join(names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if names[_MOST_NAMES:] else ""
    )


def _pods(nodes: Iterable[Mapping[str, Any]]) -> str:
    return pods_of(nodes) or "-"


def _indices_and_pods(nodes: Sequence[_Named]) -> str:
    indices, pods = ranges(one["index"] for one in nodes), pods_of(nodes)
    return f"{indices} ({pods})" if pods else indices


def ranges(indices: Iterable[int]) -> str:
    """Return indices as ``0-4,6-63``."""
    return ",".join(runs_of(sorted(indices)))


def _ending(shown: Mapping[str, Any]) -> str:
    first = next((one for one in shown["problems"] if one["severity"] == "error"), None)
    if shown["exit_code"] == OK:
        return "The group would start."
    return f"The group would end with exit code {shown['exit_code']} ({first['code'] if first else '?'})."
