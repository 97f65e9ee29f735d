"""What a check answers, as text and as the JSON contract of ``--check=json``, format 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_roce_entry.check.items import FAIL, OK, SKIP, WARN, CheckItem
from sglang_roce_entry.output import squeezed
from sglang_roce_entry.problems import OK as EXIT_OK
from sglang_roce_entry.report.folding import folded_rows
from sglang_roce_entry.report.json import as_json

#: The order of the text: what needs action comes first.
_ORDER = (FAIL, WARN, OK)
_COLOURS = {FAIL: "31", WARN: "33", OK: "32"}
_NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Outcome:
    """All items, the code that a launch would end with, and what they were found on."""

    items: Sequence[CheckItem]
    exit_code: int
    head: Mapping[str, Any]
    head_lines: Sequence[tuple[str, str]] = field(default=())
    #: What is said where nothing ends a launch.
    fine: str = "A launch would go ahead"
    #: The RDMA of the server that runs here, ``None`` without one.
    in_use: Mapping[str, Any] | None = None


def rendered(outcome: Outcome, form: str, *, colour: bool) -> str:
    """Return the outcome as ``text``, with coloured status words or without, or as ``json``."""
    return as_json(_document(outcome)) if form == "json" else _text(outcome, colour)


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "format": 1,
        "head": dict(outcome.head),
        "items": [
            {"name": one.name, "status": one.status, "evidence": one.evidence, "remedy": one.remedy}
            for one in outcome.items
        ],
        "in_use": outcome.in_use,
        "exit_code": outcome.exit_code,
    }


def _text(outcome: Outcome, colour: bool) -> str:
    shown = [
        (status, name, evidence, remedy)
        for status in _ORDER
        for name, evidence, remedy in _folded(outcome.items, status)
    ]
    left = _not_checked(outcome.items)
    width = max(len(name) for name in (*(row[1] for row in shown), *([_NOT_CHECKED] if left else [])))
    lines = [f"{'':4}  {title:<{width}}  {squeezed(text)}" for title, text in outcome.head_lines]
    lines += [""] if lines else []
    for status, name, evidence, remedy in shown:
        lines.append(f"{_painted(status, colour)}  {name:<{width}}  {squeezed(evidence)}".rstrip())
        if remedy:
            lines.append(f"{'':4}  {'':{width}}  fix: {squeezed(remedy)}")
    lines += [f"{SKIP:<4}  {_NOT_CHECKED:<{width}}  {squeezed(left)}"] if left else []
    warnings = sum(row[0] == WARN for row in shown)
    return "\n".join([*lines, "", _verdict(outcome, warnings)]) + "\n"


def _folded(items: Sequence[CheckItem], status: str) -> list[tuple[str, str, str]]:
    """Return the items of one status as name, evidence and remedy: one for all that are alike."""
    by_name: dict[str, list[CheckItem]] = {}
    for item in items:
        if item.status == status:
            by_name.setdefault(item.name, []).append(item)
    return [
        (name, evidence, remedy)
        for name, same in by_name.items()
        for _, (_, evidence, remedy) in folded_rows(("", one.evidence, one.remedy) for one in same)
    ]


def _not_checked(items: Sequence[CheckItem]) -> str:
    """Return in one line what could not be checked, by the reason."""
    reasons: dict[str, list[str]] = {}
    for item in items:
        if item.status == SKIP:
            reasons.setdefault(item.evidence, []).append(item.name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())


def _painted(status: str, colour: bool) -> str:
    word = f"{status:<4}"
    return f"\x1b[{_COLOURS[status]}m{word}\x1b[0m" if colour else word


def _verdict(outcome: Outcome, warnings: int) -> str:
    counted = f"{warnings or 'no'} warning{'s' if warnings != 1 else ''}"
    if outcome.exit_code == EXIT_OK:
        return f"{outcome.fine}; {counted}."
    failures = dict.fromkeys(one.name for one in outcome.items if one.status == FAIL)
    return f"A launch would end with exit code {outcome.exit_code} ({', '.join(failures)}; {counted})."
