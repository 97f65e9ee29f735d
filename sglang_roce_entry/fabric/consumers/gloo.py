"""Gloo: names of interfaces, and nothing else.

Source of the rules: pytorch/gloo ``transport/tcp`` and torch's ``ProcessGroupGloo`` (a comma list of exact
names; "=eth0", "^lo" and prefixes are NCCL's and make it fail).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.control import check_route, wish_interface
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.fabric.wishes import Given, Wish
from sglang_roce_entry.problems import Problem, config_value

READS = ("GLOO_SOCKET_IFNAME",)


def wishes(choice: Choice, _use: Use) -> Sequence[Wish]:
    """Return what is set for Gloo."""
    return (wish_interface("GLOO_SOCKET_IFNAME", choice.control),)


def check(given: Mapping[str, Given], choice: Choice, _use: Use) -> Sequence[Problem]:
    """Return what is wrong with a given value of Gloo's."""
    gloo, interfaces = given.get("GLOO_SOCKET_IFNAME"), choice.facts.interfaces
    if gloo is None:
        return ()
    return (
        *_unknown(gloo, [one.name for one in interfaces]),
        *(check_route(gloo, choice.control, interfaces, exact=True) if choice.used else ()),
    )


def _unknown(gloo: Given, names: Sequence[str]) -> Iterator[Problem]:
    missing = [name for name in gloo.value.split(",") if name not in names] if names else []
    if not missing:
        return
    yield config_value(
        "GLOO_IFNAME_UNKNOWN",
        f"{gloo}: Gloo takes exact names and fails on {', '.join(map(repr, missing))} "
        "('=', '^' and prefixes are NCCL's)",
        f"remove it, or name one of: {', '.join(names)}",
    )
