"""The model of no_proxy against requests itself, which SGLang calls itself with."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from requests.utils import should_bypass_proxies

from sglang_roce_entry.check.names import is_excepted

HOSTS = ("127.0.0.1", "10.1.2.3", "localhost", "sglang-0.sglang.default", "example.com", "fd00::1")
ENTRIES = (
    "127.0.0.1", "10.0.0.0/8", "10.1.2.3/32", "10.1.2.0/24", ".default", "default", "localhost", "*", ".svc", "fd00::1",
    "192.168.0.0/16", "127.0.0.0/8", ".example.com", "example.com", "",
)  # fmt: skip


@given(st.sampled_from(HOSTS), st.lists(st.sampled_from(ENTRIES), max_size=4), st.sampled_from([",", ", "]))
@example("127.0.0.1", ["*", ""], ",")
def test_same_as_requests(host: str, entries: list[str], separator: str) -> None:
    no_proxy = separator.join(entries)
    if not no_proxy.strip(", "):
        assert not is_excepted(host, no_proxy)
        return
    url = f"http://[{host}]:30000/" if ":" in host else f"http://{host}:30000/"
    assert is_excepted(host, no_proxy) == should_bypass_proxies(url, no_proxy=no_proxy)


@pytest.mark.parametrize(("host", "expected"), [("10.1.2.3", True), ("10.2.0.1", False)])
def test_networks(host: str, expected: bool) -> None:
    assert is_excepted(host, "10.1.0.0/16") == expected
