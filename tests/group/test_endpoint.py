"""Hosts and endpoints: what is accepted, and what to write instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.group.endpoint import Endpoint, EndpointError, parse_endpoint, parse_host

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=4).map(".".join),
    st.ip_addresses().map(str),
)


@given(HOST, st.integers(1, 65535))
def test_endpoints_round_trip(host: str, port: int) -> None:
    endpoint = Endpoint(host, port)
    assert parse_endpoint(str(endpoint)) == endpoint


@given(st.text(max_size=60))
def test_any_text_is_an_endpoint_or_an_endpoint_error(text: str) -> None:
    for parse in (parse_host, parse_endpoint):
        try:
            parsed = parse(text)
        except EndpointError as failure:
            assert str(failure)
            assert failure.fix
        else:
            assert str(parsed)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("host", "no port"),
        ("", "no port"),
        ("[fd00::1]", "no port"),
        ("host:", "not a number"),
        ("host:abc", "not a number"),
        ("host:0", "out of range"),
        ("host:65536", "out of range"),
        ("host:99999999999999999999", "out of range"),
        ("fd00::1:20000", "without brackets"),
        ("tcp://host:20000", "scheme"),
        (" host:20000", "spaces"),
        (":20000", "is empty"),
        ("[host]:20000", "not an IPv6"),
        ("a..b:1", "not a host name"),
        ("1.2.3:1", "not an IPv4"),
    ],
)
def test_refused_endpoints(text: str, reason: str) -> None:
    with pytest.raises(EndpointError, match=reason):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("sglang-0.sglang.default", "sglang-0.sglang.default"),
        ("sglang-0.sglang.default.", "sglang-0.sglang.default."),
        ("10.0.0.1", "10.0.0.1"),
        ("[FD00:0::1]", "fd00::1"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert parse_host(text) == host
