"""The one rule of precedence for a variable: flag, then what is given (pod, NCCL's files), then the wish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sglang_roce_entry.fabric.wishes import USER, WITHHELD, Given, Wish


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the plan; ``value`` is ``None`` where it is withheld, with the reason."""

    name: str
    value: str | None
    source: str
    reason: str


def merge(given: Mapping[str, Given], wishes: Iterable[Wish]) -> tuple[Variable, ...]:
    """Return the variables by name. Raises ``ValueError`` on a second wish for a name: a defect."""
    merged: dict[str, Variable | None] = {}
    for wish in wishes:
        if wish.name in merged:
            raise ValueError(f"two wishes for {wish.name}")
        merged[wish.name] = _merged(given.get(wish.name), wish)
    return tuple(one for _, one in sorted(merged.items()) if one is not None)


def _merged(given: Given | None, wish: Wish) -> Variable | None:
    where = given.where.removeprefix("set in ") if given is not None else ""
    if wish.by_flag:
        overrides = given is not None and given.value != wish.value
        note = f" (overrides {given.value!r} of {where})" if given is not None and overrides else ""
        return Variable(wish.name, wish.value, USER, wish.reason + note)
    if given is not None:
        return Variable(wish.name, given.value, given.source, f"set in {where}")
    if wish.value is None:
        return Variable(wish.name, None, WITHHELD, wish.reason) if wish.reason else None
    return Variable(wish.name, wish.value, wish.source, wish.reason)


def in_effect(given: Mapping[str, Given], variables: Iterable[Variable]) -> dict[str, Given]:
    """Return the given values that are still those of the plan: a flag overrides the others."""
    values = {one.name: one.value for one in variables}
    return {name: one for name, one in given.items() if values.get(name, one.value) == one.value}
