"""The page of a group: who is there, what differs, and each rail of each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from sglang_roce_entry.group.meeting.proof.pairs import FAILED, LOSSY, NOT_TRIED, PROVEN
from sglang_roce_entry.natural import runs_of
from sglang_roce_entry.problems import OK
from sglang_roce_entry.report.page.markup import Inside, as_page, element
from sglang_roce_entry.report.page.node import problem_list
from sglang_roce_entry.report.page.rows import Cell, Row, rows_of
from sglang_roce_entry.report.rail_table import WORST_FIRST
from sglang_roce_entry.report.rehearsal import TITLES, pods_of

_WORDS = {FAILED: "failed", LOSSY: "lossy", NOT_TRIED: "not tried", PROVEN: "proven"}
_MEANINGS = {
    FAILED: "does not pass, and the cause",
    LOSSY: "passes, but packets are lost",
    NOT_TRIED: "compared only: nothing was sent over it",
    PROVEN: "RDMA passes both ways",
}
_MOST_VALUES, _LONGEST = 12, 300


def group_page(shown: Mapping[str, Any]) -> str:
    """Return the page of a rehearsal's document."""
    nodes, identity = shown["nodes"], shown["identity"]
    size = identity["size"] if identity is not None else len(nodes)
    name = f"Group of {size} nodes" if size != 1 else "A group of one node"
    leader = f"leader {identity['leader']}" if identity is not None and identity["leader"] else ""
    rows = rows_of(shown)
    body: list[Inside] = [
        element("h1", name),
        element("p", element("bdi", leader), class_="soft") if leader else None,
        _verdict(shown),
        _counts(shown),
        *problem_list(shown["problems"]),
        *_agreed(nodes),
        *_differences(shown),
        *_unreached(shown["reach"]),
        element("h2", "Nodes and rails"),
        *_legend(shown, size),
        element("ul", *map(_row, rows), class_="rows") if rows else None,
    ]
    return as_page(f"{name}: {leader}" if leader else name, body)


def _verdict(shown: Mapping[str, Any]) -> Element:
    if shown["exit_code"] == OK:
        return element("p", "The group would start", class_="verdict")
    first = next((one["code"] for one in shown["problems"] if one["severity"] == "error"), "?")
    return element(
        "p", f"The group would end with exit code {shown['exit_code']} ({first})", class_="verdict error"
    )


def _counts(shown: Mapping[str, Any]) -> Element:
    """Return one line: how many nodes are there, and what came of how many rails."""
    states = Counter(node["state"] for node in shown["nodes"])
    rails = Counter(one["status"] for one in shown["rails"])
    parts = [f"{count} {state}" for state, count in states.items()]
    told = [f"{rails[status]} {_WORDS[status]}" for status in reversed(WORST_FIRST) if rails[status]]
    text = f"nodes: {', '.join(parts) or 'none is known'}" + (
        f"; rails between two: {', '.join(told)}" if told else ""
    )
    return element("p", text, class_="soft")


def _indices(indices: Iterable[int]) -> str:
    return ", ".join(runs_of(sorted(indices)))


# ----------------------------------------------------------------------------------------- what all say


def _agreed(nodes: Sequence[Mapping[str, Any]]) -> Iterable[Element]:
    """Yield what is the same on all nodes that are there."""
    those = [node for node in nodes if node["versions"] or node["rails"]]
    said: dict[str, set[str]] = {}
    for node in those:
        for name, value in _said(node):
            said.setdefault(name, set()).add(value)
    same = [" ".join(_ordered(name, *values)) for name, values in said.items() if len(values) == 1]
    if len(those) > 1 and same:
        yield element("p", element("strong", "All of them: "), element("bdi", ", ".join(same)))


def _said(node: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if node["gpus"] is not None:
        yield "GPUs", str(node["gpus"])
    yield "rails", str(len(node["rails"]))
    for key, title in (("rate_gbps", "Gb/s"), ("roce_mtu", "RoCE MTU"), ("gid_index", "GID index")):
        values = dict.fromkeys(f"{rail[key]:g}" for rail in node["rails"] if rail[key] is not None)
        if values:
            yield title, "/".join(values)
    for name, release in node["versions"].items():
        yield TITLES.get(name, name), release


def _ordered(name: str, value: str) -> tuple[str, str]:
    return (value, name) if name in ("GPUs", "rails", "Gb/s") else (name, value)


def _differences(shown: Mapping[str, Any]) -> Iterable[Element]:
    """Yield each key in which nodes differ, with its values; the sentence on it only where no problem has it."""
    if not shown["differences"]:
        return
    told = {problem["message"] for problem in shown["problems"]}
    yield element("h2", "What differs")
    yield element("ul", *(_difference(one, told) for one in shown["differences"]), class_="table")


def _difference(one: Mapping[str, Any], told: Container[str]) -> Element:
    odd = frozenset(one["odd"] or ())
    values = sorted(one["values"].items(), key=lambda said: -len(said[1]))
    lines = []
    for value, indices in values[:_MOST_VALUES]:
        alone = bool(indices) and odd.issuperset(indices)
        lines.append(
            element(
                "li",
                element("code", _short(value)),
                f" on {_indices(indices)}",
                ", the odd one" if alone and len(indices) == 1 else ", the odd ones" if alone else None,
                class_="odd" if alone else None,
            )
        )
    if len(values) > _MOST_VALUES:
        lines.append(element("li", f"and {len(values) - _MOST_VALUES} more values", class_="soft"))
    return element(
        "li",
        element(
            "div",
            element("code", one["key"]),
            element("p", element("bdi", one["message"]), class_="soft") if one["message"] not in told else None,
        ),
        element("div", element("span", one["severity"], class_=f"badge {one['severity']}")),
        element("ul", *lines),
    )


def _unreached(reach: Sequence[Mapping[str, Any]]) -> Iterable[Element]:
    failed = [one for one in reach if not one["ok"]]
    if failed:
        lines = [
            element(
                "li", f"{one['from']} does not reach {one['to']}: ", element("bdi", _short(str(one["detail"])))
            )
            for one in failed
        ]
        yield element("h2", "Who does not reach whom")
        yield element("ul", *lines)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# ----------------------------------------------------------------------------------------- nodes and rails


def _legend(shown: Mapping[str, Any], size: int) -> Iterable[Element]:
    present = {one["status"] for one in shown["rails"]}
    texts = [
        element("li", element("span", class_=f"mark {status}"), f"{_WORDS[status]}: {_MEANINGS[status]}")
        for status in reversed(WORST_FIRST)
        if status in present
    ]
    if texts:
        yield element("ul", *texts, element("li", "each rail of a single node opens its details"), class_="marks")
    if len(shown["nodes"]) < size:
        yield element("p", "This is the row of one member; the leader's page has all.")


def _row(row: Row) -> Element:
    """Return one node, or those that agree with each of them below."""
    first, alone = row.nodes[0], len(row.nodes) == 1
    about = [f"{len(row.nodes)} nodes"] if not alone else [first["address"]]
    badges = [element("span", f"{key} differs", class_="badge odd") for key in row.odd]
    if first["state"] != "present":
        badges.insert(0, element("span", first["state"], class_=f"badge {first['state']}"))
    refusal = first["refusal"]
    return element(
        "li",
        element(
            "div",
            element("strong", _indices(node["index"] for node in row.nodes)),
            " ",
            element("bdi", pods_of(row.nodes)),
            element("span", *(f" {text}" for text in about if text), class_="soft"),
            *badges,
            class_="who",
        ),
        element("p", f"{refusal['code']}: ", element("bdi", _short(refusal["message"]))) if refusal else None,
        element("div", *(_chip(cell, opens=alone) for cell in row.cells[0]), class_="cells")
        if row.cells[0]
        else None,
        None if alone else _members(row),
        class_="row",
    )


def _chip(cell: Cell, *, opens: bool) -> Element:
    """Return the cell of one rail: its number, what came of it, and behind it the details."""
    head: list[Inside] = [
        element("span", "rail "),
        f"{cell.rail['position']} ",
        element("code", _short(cell.cause) or _WORDS[cell.status]) if _unwell(cell) else None,
        None if _unwell(cell) else element("span", _WORDS[cell.status]),
    ]
    if not opens:
        return element("div", *head, class_=f"chip {cell.status}")
    details = [element("p", element("bdi", text)) for text in _details(cell)]
    return element("details", element("summary", *head, class_=f"chip {cell.status}"), *details)


def _unwell(cell: Cell) -> bool:
    return cell.status in (FAILED, LOSSY)


def _details(cell: Cell) -> Iterable[str]:
    rail = cell.rail
    facts = [
        f"{rail['device']}:{rail['port']}",
        rail["gid"],
        f"LID {rail['lid']}" if rail.get("lid") is not None else None,
        f"in {rail['network']}" if rail["network"] else None,
        f"GID index {rail['gid_index']}" if rail["gid_index"] is not None else None,
        f"{rail['rate_gbps']:g} Gb/s" if rail["rate_gbps"] is not None else None,
        f"RoCE MTU {rail['roce_mtu']}" if rail["roce_mtu"] is not None else None,
    ]
    yield " · ".join(fact for fact in facts if fact)
    for one in cell.results:
        yield _result(one)


def _result(one: Mapping[str, Any]) -> str:
    """Return what came of one rail between two nodes; ``out`` is from the first to the second."""
    way = {
        "out": f"from {one['from']} to {one['to']}",
        "in": f"from {one['to']} to {one['from']}",
        "both": "both ways",
    }
    direction = way.get(one["direction"] or "", "")
    text = f"{one['from']} and {one['to']}: {_WORDS.get(one['status'], one['status'])}"
    text += "".join(f", {part}" for part in (one["cause"], direction) if part)
    if one["seconds"] is not None:
        text += f" in {one['seconds']:.2f} s"
    return f"{text}: {_short(str(one['detail']))}" if one["detail"] else text


def _members(row: Row) -> Element:
    lines = []
    for node, cells in zip(row.nodes, row.cells, strict=True):
        rails = [
            element("li", element("bdi", f"{cell.rail['position']}: {'; '.join(_details(cell))}"))
            for cell in cells
        ]
        about = " ".join(filter(None, (node["pod"], node["address"])))
        head = element("p", element("strong", str(node["index"])), " ", element("bdi", about))
        lines.append(element("li", head, element("ul", *rails) if rails else None))
    return element(
        "details",
        element("summary", f"each of these {len(row.nodes)} nodes"),
        element("ul", *lines),
        class_="members",
    )
