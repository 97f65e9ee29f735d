"""Whether a document from elsewhere has the shape of a rehearsal's, so that it can be shown in each form."""

from __future__ import annotations

from types import EllipsisType, NoneType
from typing import Any

Shape = tuple[type, ...] | list[Any] | dict[str, Any] | dict[EllipsisType, Any]

_TEXT, _NUMBER, _INDEX = (str,), (int, float), (int,)
_MAYBE_TEXT, _MAYBE_NUMBER, _MAYBE_INDEX = (str, NoneType), (int, float, NoneType), (int, NoneType)
#: What nobody means: a number that cannot be printed in a few digits.
_BEYOND = 1e15

_RAIL: Shape = {
    "position": _INDEX,
    "device": _TEXT,
    "port": _INDEX,
    "network": _MAYBE_TEXT,
    "gid": _MAYBE_TEXT,
    "gid_index": _MAYBE_INDEX,
    "rate_gbps": _MAYBE_NUMBER,
    "roce_mtu": _MAYBE_INDEX,
}
_NODE: Shape = {
    "index": _INDEX,
    "pod": _MAYBE_TEXT,
    "state": _TEXT,
    "address": _MAYBE_TEXT,
    "gpus": _MAYBE_INDEX,
    "rails": [_RAIL],
    "versions": {...: _TEXT},
    "refusal": (NoneType, dict),
}
_DIFFERENCE: Shape = {
    "key": _TEXT,
    "severity": _TEXT,
    "values": {...: [_INDEX]},
    "odd": (NoneType, list),
    "code": _TEXT,
    "message": _TEXT,
}
_RESULT: dict[str, Any] = {
    "position": _INDEX,
    "from": _INDEX,
    "to": _INDEX,
    "status": _TEXT,
    "cause": _MAYBE_TEXT,
    "direction": _MAYBE_TEXT,
    "seconds": _MAYBE_NUMBER,
    "detail": _MAYBE_TEXT,
}
_REHEARSAL: Shape = {
    "nodes": [_NODE],
    "differences": [_DIFFERENCE],
    "reach": [{"from": _INDEX, "to": _INDEX, "ok": (bool,), "detail": _MAYBE_TEXT}],
    "rails": [_RESULT],
    "problems": [{"severity": _TEXT, "code": _TEXT, "message": _TEXT, "hint": _TEXT}],
    "exit_code": _INDEX,
}
_REFUSAL: Shape = {"code": _TEXT, "message": _TEXT, "exit_code": _INDEX}


def is_rehearsal(document: Any) -> bool:
    """Return whether ``document`` has all of the contract of ``--rehearse=json``, format 1; there may be more."""
    return (
        _fits(document, _REHEARSAL)
        and _fits(document.get("across", []), [{**_RESULT, "to_position": _INDEX}])
        and all(_fits(one["odd"] or [], [_INDEX]) for one in document["differences"])
        and all(node["refusal"] is None or _fits(node["refusal"], _REFUSAL) for node in document["nodes"])
    )


def _fits(value: Any, shape: Shape) -> bool:
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if isinstance(shape, tuple):
        return isinstance(value, shape) and (not isinstance(value, int | float) or abs(value) < _BEYOND)
    if not isinstance(value, dict):
        return False
    return all(
        all(_fits(one, of) for one in value.values()) if name is ... else name in value and _fits(value[name], of)
        for name, of in shape.items()
    )
