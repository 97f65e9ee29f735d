"""What passes a port and what goes wrong on it: its counters, which every driver names in its own way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sglang_roce_entry.host.facts import Port
from sglang_roce_entry.host.further.queue_pairs import read_port_counters
from sglang_roce_entry.host.tree import Tree, attribute_or_none, names_or_empty
from sglang_roce_entry.natural import whole_number

BYTES, PACKETS, REQUESTS = "B", "packets", "requests"
#: Of every driver that has them (Documentation/ABI/stable/sysfs-class-infiniband): in words of four bytes.
_SENT_WORDS, _RECEIVED_WORDS, _WORD_BYTES = "port_xmit_data", "port_rcv_data", 4


@dataclass(frozen=True, slots=True)
class Driver:
    """The names of one driver's counters; what was sent and received is the sum of what is there.

    ``lost``: packets that were sent again, came out of order or were dropped. ``marked``: signs of congestion.
    """

    name: str
    sent: tuple[str, ...] = ()
    received: tuple[str, ...] = ()
    unit: str = BYTES
    lost: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()


#: By driver, with the file of the kernel that names them; ``counters/`` of all drivers come last.
DRIVERS = (
    Driver(  # drivers/infiniband/hw/mlx5/counters.c; the bytes only where somebody has switched them on
        "mlx5",
        sent=("rdma_tx_bytes",),
        received=("rdma_rx_bytes",),
        lost=(
            *("out_of_sequence", "packet_seq_err", "implied_nak_seq_err", "local_ack_timeout_err"),
            *("roce_adp_retrans", "roce_adp_retrans_to", "req_transport_retries_exceeded"),
        ),
        marked=("np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"),
    ),
    Driver("mlx5", received=("rx_write_requests", "rx_read_requests"), unit=REQUESTS),
    Driver(  # drivers/infiniband/hw/bnxt_re/hw_counters.c
        "bnxt_re",
        sent=("tx_bytes",),
        received=("rx_bytes",),
        lost=(
            *("to_retransmits", "seq_err_naks_rcvd", "max_retry_exceeded", "missing_resp", "oos_drop_count"),
            *("rx_roce_discards", "tx_roce_discards"),
        ),
        marked=("rx_cnp_pkts", "tx_cnp_pkts", "rx_ecn_marked_pkts"),
    ),
    Driver(  # drivers/infiniband/hw/irdma/verbs.c
        "irdma",
        sent=("ip4OutOctets", "ip6OutOctets"),
        received=("ip4InOctets", "ip6InOctets"),
        lost=("tcpRetransSegs", "ip4InDiscards", "ip6InDiscards"),
        marked=("cnpSent", "cnpHandled", "RxECNMrkd"),
    ),
    Driver(  # AMD's ionic, as RCCL's and ROCm's tools read it
        "ionic",
        sent=("tx_rdma_ucast_bytes",),
        received=("rx_rdma_ucast_bytes",),
        lost=(
            *("tx_rdma_ack_timeout", "req_rx_pkt_seq_err", "req_rx_impl_nak_seq_err", "resp_rx_outouf_seq"),
            *("req_tx_retry_excd_err", "rx_rdma_mtu_discard_pkts"),
        ),
        marked=("tx_rdma_cnp_pkts", "rx_rdma_cnp_pkts", "rx_rdma_ecn_pkts"),
    ),
    Driver(  # drivers/infiniband/sw/rxe/rxe_hw_counters.c
        "rxe",
        sent=("sent_pkts",),
        received=("rcvd_pkts",),
        unit=PACKETS,
        lost=(
            "completer_retry_err",
            "duplicate_request",
            "out_of_seq_request",
            "rcvd_seq_err",
            "retry_exceeded_err",
        ),
    ),
    Driver("all", lost=("port_xmit_discards", "link_downed")),
)
_LOST = frozenset(name for driver in DRIVERS for name in driver.lost)
_MARKED = frozenset(name for driver in DRIVERS for name in driver.marked)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened on a port between two readings: per second in ``unit``; what moved, by the counter's name.

    ``None``: not known.
    """

    sent: float | None = None
    received: float | None = None
    unit: str = BYTES
    lost: Mapping[str, int] | None = None
    marked: Mapping[str, int] | None = None


def read_counters(tree: Tree, devices: Mapping[str, int], ports: Iterable[Port]) -> dict[str, dict[str, int]]:
    """Return all counters of each port, by label: the kernel's answer, and what /sys has besides.

    In a pod in the shared mode /sys has none (``setup_port`` of drivers/infiniband/core/sysfs.c), and only
    ``hw_counters`` are in the answer: no bytes of a card that counts them in ``counters`` alone.
    """
    return {port.label: _of_port(tree, devices.get(port.device), port) for port in ports}


def _of_port(tree: Tree, index: int | None, port: Port) -> dict[str, int]:
    found = read_port_counters(index, port.number) if index is not None else {}
    for folder in ("counters",) if found else ("hw_counters", "counters"):
        base = f"/sys/class/infiniband/{port.device}/ports/{port.number}/{folder}"
        for name in names_or_empty(tree, base):
            value = whole_number(attribute_or_none(tree, f"{base}/{name}"))
            if value is not None:
                found[name] = value
    return found


def traffic(before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> Traffic:
    """Return what happened on a port within ``seconds``. A counter that ran backwards was reset or overflowed."""
    moved = {name: after[name] - before[name] for name in after if name in before and after[name] >= before[name]}
    lost, marked = ({name: n for name, n in moved.items() if n and name in names} for names in (_LOST, _MARKED))
    if _SENT_WORDS in moved and _RECEIVED_WORDS in moved:
        sent, received = (moved[name] * _WORD_BYTES / seconds for name in (_SENT_WORDS, _RECEIVED_WORDS))
        return Traffic(sent, received, BYTES, lost, marked)
    for driver in DRIVERS:
        counted = [
            sum(moved[name] for name in names) / seconds if names else None
            for names in ([name for name in side if name in moved] for side in (driver.sent, driver.received))
        ]
        if any(one is not None for one in counted):
            return Traffic(counted[0], counted[1], driver.unit, lost, marked)
    return Traffic(lost=lost, marked=marked)
