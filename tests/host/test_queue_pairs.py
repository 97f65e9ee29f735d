"""The kernel's answers on queue pairs and counters: read as written, and never trusted."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.host.further import netlink
from sglang_roce_entry.host.further.queue_pairs import (
    QueuePair,
    counters_in,
    devices_in,
    peers_in,
    queue_pairs_in,
)
from sglang_roce_entry.host.further.traffic import DRIVERS, Traffic, traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

# include/uapi/rdma/rdma_netlink.h, as a C compiler numbers them.
DEV_INDEX, DEV_NAME, PORT_INDEX = 1, 2, 3
RES_QP, RES_QP_ENTRY, LQPN, RQPN, TYPE, STATE, PID, KERN_NAME = 19, 20, 21, 22, 26, 27, 28, 29
RES_CM_ID, RES_CM_ID_ENTRY, SRC_ADDR, DST_ADDR = 30, 31, 33, 34
HWCOUNTERS, HWCOUNTER_ENTRY, COUNTER_NAME, COUNTER_VALUE = 80, 81, 82, 83
NESTED = 0x8000
RC, GSI, DRIVER = 2, 1, 0xFF
INIT, RTS, ERR = 1, 3, 6
SOCKADDR_BYTES = 128


def put(kind: int, value: bytes | int | str, *, byte: bool = False) -> bytes:
    """Return an attribute as the kernel lays it out: padded to four bytes."""
    if isinstance(value, int):
        value = struct.pack("=B" if byte else "=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def table(kind: int, entry: int, *rows: bytes) -> bytes:
    inner = b"".join(put(entry | NESTED, row) for row in rows)
    return put(DEV_INDEX, 0) + put(DEV_NAME, "mlx5_0") + put(kind | NESTED, inner)


def qp(number: int, *more: bytes, kind: int = RC, state: int = RTS) -> bytes:
    return put(LQPN, number) + put(TYPE, kind, byte=True) + put(STATE, state, byte=True) + b"".join(more)


def sockaddr(text: str) -> bytes:
    address = ip_address(text)
    head = struct.pack("=H", 2 if address.version == 4 else 10) + b"\x48\xa8"
    body = address.packed if address.version == 4 else bytes(4) + address.packed
    return (head + body).ljust(SOCKADDR_BYTES, b"\0")


def message(kind: int, body: bytes, length: int | None = None) -> bytes:
    size = 16 + len(body) if length is None else length
    return struct.pack("=IHHII", size, kind, 2, 1, 0) + body + bytes(-len(body) % 4)


def pairs(*rows: bytes) -> list[QueuePair]:
    return list(queue_pairs_in("mlx5_0", [table(RES_QP, RES_QP_ENTRY, *rows)]))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            put(PORT_INDEX, 1) + qp(17, put(RQPN, 18), put(PID, 203)),
            [QueuePair("mlx5_0", 1, 17, "RC", "RTS", 203)],
        ),
        (qp(17, put(PID, 203), state=0), [QueuePair("mlx5_0", None, 17, "RC", "RESET", 203)]),
        # Of another process namespace, or its thread has ended; older kernels then say 0.
        (qp(17), [QueuePair("mlx5_0", None, 17, "RC", "RTS", None)]),
        (qp(17, put(PID, 0)), [QueuePair("mlx5_0", None, 17, "RC", "RTS", None)]),
        (qp(17, put(PID, 5), kind=DRIVER, state=ERR), [QueuePair("mlx5_0", None, 17, "DRIVER", "ERR", 5)]),
        (qp(17, put(PID, 5), kind=77, state=99), [QueuePair("mlx5_0", None, 17, "type 77", "", 5)]),
        (put(LQPN, 17), [QueuePair("mlx5_0", None, 17, "", "", None)]),
        (qp(1, put(KERN_NAME, "ib_core"), kind=GSI), []),
        (put(PID, 5), []),
        (b"", []),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str([one.state for one in value]),
)
def test_queue_pairs(row: bytes, expected: list[QueuePair]) -> None:
    assert pairs(row) == expected
    assert pairs(qp(3, put(PID, 9)), row, qp(4, put(PID, 9)))[1:-1] == expected


def test_devices_peers_and_counters() -> None:
    devices = [put(DEV_INDEX, 4) + put(DEV_NAME, "mlx5_0"), put(DEV_INDEX, 7) + put(DEV_NAME, "rocep1s0"), b""]
    assert devices_in(devices) == {"mlx5_0": 4, "rocep1s0": 7}
    rows = [
        put(LQPN, 17) + put(SRC_ADDR, sockaddr("10.0.1.1")) + put(DST_ADDR, sockaddr("10.0.1.2")),
        put(LQPN, 18) + put(DST_ADDR, sockaddr("fd00::2")),
        put(LQPN, 19),  # listens
        put(LQPN, 20) + put(DST_ADDR, struct.pack("=H", 27) + bytes(46)),  # AF_IB
        put(LQPN, 21) + put(DST_ADDR, b"\x02"),
    ]
    assert peers_in([table(RES_CM_ID, RES_CM_ID_ENTRY, *rows)]) == {
        17: ip_address("10.0.1.2"),
        18: ip_address("fd00::2"),
    }
    counters = [
        put(COUNTER_NAME, "sent_pkts") + put(COUNTER_VALUE, struct.pack("=Q", 1 << 40)),
        put(COUNTER_NAME, "no value"),
    ]
    assert counters_in([table(HWCOUNTERS, HWCOUNTER_ENTRY, *counters)]) == {"sent_pkts": 1 << 40}


@pytest.mark.parametrize(
    ("datagram", "bodies"),
    [
        (message(5130, b"one.") + message(5130, b"two.") + message(3, b"\0\0\0\0"), [b"one.", b"two.", None]),
        (message(3, b""), [None]),
        (b"", []),
    ],
)
def test_messages(datagram: bytes, bodies: list[bytes | None]) -> None:
    assert list(netlink.messages(datagram)) == bodies


@pytest.mark.parametrize("kind", [2, 3])
def test_a_refusal_has_the_kernels_errno(kind: int) -> None:
    with pytest.raises(netlink.RefusedError) as refused:
        list(netlink.messages(message(kind, struct.pack("=i", -errno.EINVAL))))
    assert refused.value.errno == errno.EINVAL


@given(
    st.binary(max_size=200)
    | st.lists(st.binary(max_size=40)).map(lambda parts: b"".join(message(5, p) for p in parts))
)
def test_any_bytes_are_messages_or_no_answer(data: bytes) -> None:
    with suppress(OSError, struct.error):
        for body in netlink.messages(data):
            assert body is None or len(body) <= len(data)


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """Return a right answer of which some bytes are others, or that ends early; or any bytes."""
    answer = bytearray(
        draw(
            st.sampled_from(
                [
                    table(RES_QP, RES_QP_ENTRY, qp(17, put(PID, 3)), qp(1, put(KERN_NAME, "ib_core"))),
                    table(RES_CM_ID, RES_CM_ID_ENTRY, put(LQPN, 17) + put(DST_ADDR, sockaddr("fd00::2"))),
                    table(HWCOUNTERS, HWCOUNTER_ENTRY, put(COUNTER_NAME, "a") + put(COUNTER_VALUE, bytes(8))),
                ]
            )
            | st.binary(max_size=300)
        )
    )
    for place in draw(st.lists(st.integers(0, max(len(answer) - 1, 0)), max_size=4)):
        if answer:
            answer[place] = draw(st.integers(0, 255))
    return bytes(answer[: draw(st.integers(0, len(answer)))])


@given(torn())
def test_a_torn_answer_is_read_as_far_as_it_goes(body: bytes) -> None:
    with suppress(struct.error):
        for pair in queue_pairs_in("mlx5_0", [body]):
            assert pair.thread != 0
    for read in (devices_in, peers_in, counters_in):
        with suppress(struct.error):
            assert len(read([body])) <= len(body)


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        ({"port_xmit_data": 500, "port_rcv_data": 250}, Traffic(1000.0, 500.0, "B", {}, {})),
        ({"port_xmit_data": 500, "port_rcv_data": 250, "tx_bytes": 9}, Traffic(1000.0, 500.0, "B", {}, {})),
        ({"rx_write_requests": 8, "rx_read_requests": 2}, Traffic(None, 5.0, "requests", {}, {})),
        ({"tx_bytes": 10, "rx_bytes": 0, "to_retransmits": 3}, Traffic(5.0, 0.0, "B", {"to_retransmits": 3}, {})),
        (
            {"ip4InOctets": 2, "ip6InOctets": 4, "ip4OutOctets": 6, "cnpSent": 1},
            Traffic(3.0, 3.0, "B", {}, {"cnpSent": 1}),
        ),
        ({"sent_pkts": 4, "rcvd_pkts": 2, "out_of_sequence": 0}, Traffic(2.0, 1.0, "packets", {}, {})),
        (
            {"np_cnp_sent": 1, "out_of_sequence": 2},
            Traffic(lost={"out_of_sequence": 2}, marked={"np_cnp_sent": 1}),
        ),
        ({"lifespan": 3}, Traffic(lost={}, marked={})),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_traffic_by_driver(moved: Mapping[str, int], expected: Traffic) -> None:
    before = dict.fromkeys(moved, 1000)
    after = {name: 1000 + count for name, count in moved.items()}
    assert traffic(before, after, 2.0) == expected


def test_a_counter_that_ran_backwards_or_is_new_says_nothing() -> None:
    assert traffic({"out_of_sequence": 5}, {"out_of_sequence": 1, "packet_seq_err": 7}, 1.0) == Traffic(
        lost={}, marked={}
    )


def test_no_counter_means_two_things() -> None:
    sides = [name for driver in DRIVERS for name in (*driver.sent, *driver.received)]
    assert len(sides) == len(set(sides))
    lost, marked = ({name for driver in DRIVERS for name in getattr(driver, kind)} for kind in ("lost", "marked"))
    assert not lost & marked
    assert not (lost | marked) & set(sides)
