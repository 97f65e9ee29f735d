"""The verdict on a path from what came through; the packets themselves are tested on real nodes."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sglang_roce_entry.group.path_mtu import BLACK_HOLE, FULL, SILENT, SMALLER, PathMtu, _judge, path_mtu
from tests.layers import skip_or_fail


@pytest.mark.parametrize(
    ("path", "named", "mtu", "verdict"),
    [
        (1500, None, 1500, PathMtu(FULL, 1500)),
        (9000, None, 1500, PathMtu(FULL, 1500)),
        (1500, None, 9000, PathMtu(BLACK_HOLE, 1500)),
        (1450, None, 1500, PathMtu(BLACK_HOLE, 1450)),
        (1000, None, 1500, PathMtu(BLACK_HOLE, None)),
        (1450, 1450, 1500, PathMtu(SMALLER, 1450)),
        (0, None, 1500, PathMtu(SILENT, None)),
    ],
)
def test_verdict(path: int, named: int | None, mtu: int, verdict: PathMtu) -> None:
    asked: list[int] = []

    def answer(size: int) -> int | None:
        asked.append(size)
        return size if size <= path else named

    assert _judge(answer, mtu) == verdict
    assert max(asked) <= mtu, "never more than the interface carries"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_this_machine_answers_itself(address: str) -> None:
    found = path_mtu(ip_address(address), 1500, 2.0)
    if address == "::1" and found.state == SILENT:
        skip_or_fail("group", "needs IPv6 on the loopback")
    assert found == PathMtu(FULL, 1500)
