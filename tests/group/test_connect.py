"""Connects and binds on loopback, against real sockets."""

from __future__ import annotations

import errno
import socket
import time
from ipaddress import ip_address

import pytest

from sglang_roce_entry.group.connect import ACCEPTED, REFUSED, UNREACHABLE, connect_any, port_is_free

LOOP4, LOOP6 = ip_address("127.0.0.1"), ip_address("::1")


def _listener(family: int = socket.AF_INET, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind((host, port))
    one.listen()
    return one


def _free_port() -> int:
    with _listener() as one:
        return int(one.getsockname()[1])


def test_any_of_the_ports() -> None:
    with _listener() as one:
        port = one.getsockname()[1]
        probe = connect_any([LOOP4], [_free_port(), port], 2.0)
        assert (probe.cause, probe.address, probe.port) == (ACCEPTED, LOOP4, port)


def test_refused() -> None:
    assert connect_any([LOOP4], [_free_port()], 2.0).cause == REFUSED


def test_ipv4_is_preferred_and_ipv6_taken_when_it_alone_accepts() -> None:
    with _listener() as four:
        port = four.getsockname()[1]
        with _listener(socket.AF_INET6, "::1", port):
            for addresses in ([LOOP6, LOOP4], [LOOP4, LOOP6]):
                assert connect_any(addresses, [port], 2.0).address == LOOP4
    with _listener(socket.AF_INET6, "::1") as six:
        port = six.getsockname()[1]
        assert connect_any([LOOP4, LOOP6], [port], 2.0).address == LOOP6


def test_the_round_keeps_its_time_and_closes_what_it_opened() -> None:
    # A backlog of zero that is full makes the kernel drop further connects: nobody answers.
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(0)
        port = one.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        try:
            for other in crowd:
                other.setblocking(False)
                other.connect_ex(("127.0.0.1", port))
            started = time.monotonic()
            probe = connect_any([LOOP4], [port], 0.3)
            assert time.monotonic() - started < 1.0
            assert probe.cause in ("timed out", ACCEPTED)
        finally:
            for other in crowd:
                other.close()


def test_an_orderly_close_reaches_the_leader() -> None:
    with _listener() as one:
        connect_any([LOOP4], [one.getsockname()[1]], 2.0)
        one.settimeout(2)
        peer, _ = one.accept()
        with peer:
            peer.settimeout(2)
            assert peer.recv(1) == b""  # FIN, not RST: a reset would raise


def test_a_port_is_free_until_somebody_listens() -> None:
    with _listener() as one:
        port = one.getsockname()[1]
        assert not port_is_free("*", port)
        assert not port_is_free("0.0.0.0", port)
        assert not port_is_free("127.0.0.1", port)
    assert port_is_free("*", port)
    assert connect_any([LOOP4], [port], 1.0).cause == REFUSED


def test_time_wait_does_not_take_a_port() -> None:
    with _listener() as one:
        port = one.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = one.accept()
            server.close()  # the side that closes first holds TIME_WAIT
            client.recv(1)
    assert port_is_free("*", port)


def test_an_address_of_another_scope_is_unreachable() -> None:
    assert connect_any([ip_address("fe80::1%nosuch0")], [1], 1.0).cause == UNREACHABLE


def test_a_family_that_the_kernel_lacks_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ipv6.disable=1``, while the leader's name has an AAAA record as well."""
    real = socket.socket

    def without_ipv6(family: int, *arguments: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *arguments)

    with _listener() as one:
        port = one.getsockname()[1]
        monkeypatch.setattr(socket, "socket", without_ipv6)
        probe = connect_any([LOOP4, LOOP6], [port], 2.0)
        assert (probe.cause, probe.address, probe.port) == (ACCEPTED, LOOP4, port)
        assert connect_any([LOOP6], [port], 2.0).cause == UNREACHABLE


def test_a_host_name_is_not_looked_up_for_a_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver can hang, and a look-up inside ``bind`` has no time limit and hears no signal."""
    with _listener() as one:
        port = one.getsockname()[1]
        assert not port_is_free("localhost", port)
        monkeypatch.setattr(socket.socket, "bind", lambda _self, address: pytest.fail(f"asks for {address}"))
        assert port_is_free("sglang-0.sglang", port)
