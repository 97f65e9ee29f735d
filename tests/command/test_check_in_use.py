"""--check beside a running server: whether RDMA is used, by what the kernel tells."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.check.items import Examined
from sglang_roce_entry.check.serving.in_use import Seen, as_document, items
from sglang_roce_entry.host.further.queue_pairs import QueuePair
from tests.healthy import healthy
from tests.planning import plan_of

if TYPE_CHECKING:
    from sglang_roce_entry.plan.plan import Plan

MODEL = ("--model-path", "m")
PLAN = plan_of(healthy(), *MODEL)
ONE_NODE = plan_of(healthy().set(environ={}), *MODEL)
WITHOUT_RDMA = plan_of(healthy(), "--rdma", "off", *MODEL)
FIRST = QueuePair("mlx5_0", 1, 17, "RC", "RTS", 203)
SECOND = replace(FIRST, device="mlx5_1", thread=204)
OWN = {203: 201, 204: 202}  # thread to process of the server
OVER_TCP = "warn no process of the server has a queue pair: NCCL runs over TCP, or has not connected yet"
NO_RATES = "its traffic cannot be read here"


def lines(seen: Seen | None, plan: Plan = PLAN, *, live: bool = True) -> list[str]:
    found = items(Examined(plan, {}, live=live), seen)
    assert {one.name for one in found} <= {"in use"}
    assert all(one.remedy for one in found if one.status == "warn")
    return [f"{one.status} {one.evidence}" for one in found]


def seen(*pairs: QueuePair, **facts: Any) -> Seen:
    return Seen(pairs, OWN, **facts)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            seen(FIRST, replace(FIRST, number=18), SECOND),
            [
                f"ok mlx5_0:1 2 queue pairs (RC RTS) of process 201; {NO_RATES}",
                f"ok mlx5_1:1 1 queue pair (RC RTS) of process 202; {NO_RATES}",
            ],
        ),
        (
            seen(FIRST, replace(FIRST, thread=204, state="ERR"), SECOND),
            [
                f"ok mlx5_0:1 2 queue pairs (1 RC ERR, 1 RC RTS) of processes 201, 202; {NO_RATES}",
                f"ok mlx5_1:1 1 queue pair (RC RTS) of process 202; {NO_RATES}",
            ],
        ),
        (
            seen(replace(FIRST, peer=ip_address("10.1.0.10")), replace(FIRST, peer=ip_address("10.1.0.9")), SECOND),
            [
                f"ok mlx5_0:1 2 queue pairs (RC RTS) of process 201, peers 10.1.0.9, 10.1.0.10; {NO_RATES}",
                f"ok mlx5_1:1 1 queue pair (RC RTS) of process 202; {NO_RATES}",
            ],
        ),
        (
            seen(
                FIRST,
                SECOND,
                before={"mlx5_0:1": {"port_xmit_data": 0, "port_rcv_data": 0, "np_cnp_sent": 1}},
                after={"mlx5_0:1": {"port_xmit_data": 5 * 10**9, "port_rcv_data": 250, "np_cnp_sent": 3}},
            ),
            [
                "ok mlx5_0:1 1 queue pair (RC RTS) of process 201; 20 GB/s sent, 1 kB/s received; marked: np_cnp_sent +2",
                f"ok mlx5_1:1 1 queue pair (RC RTS) of process 202; {NO_RATES}",
            ],
        ),
        (
            seen(
                FIRST,
                SECOND,
                before={"mlx5_1:1": {"out_of_sequence": 1, "sent_pkts": 1}},
                after={"mlx5_1:1": {"out_of_sequence": 3, "sent_pkts": 8}},
                seconds=2.0,
            ),
            [
                f"ok mlx5_0:1 1 queue pair (RC RTS) of process 201; {NO_RATES}",
                "ok mlx5_1:1 1 queue pair (RC RTS) of process 202; 4 packets/s sent",
                "warn packets are lost, sent again or out of order, within 2.0 s: mlx5_1:1 out_of_sequence +2",
            ],
        ),
        (
            seen(FIRST),
            [
                f"ok mlx5_0:1 1 queue pair (RC RTS) of process 201; {NO_RATES}",
                "warn mlx5_1:1 carries no queue pair of the server",
            ],
        ),
        (seen(), [OVER_TCP]),
        # Other processes of this namespace are not the server.
        (seen(replace(FIRST, thread=999)), [OVER_TCP]),
        # Without a thread they may be another pod's or the server's; not if the server has not opened the device.
        (
            seen(replace(FIRST, thread=None)),
            [
                "skip 1 queue pair on mlx5_0:1 not known to be the server's: another pod's, or of a thread that has ended",
                "warn mlx5_1:1 carries no queue pair of the server",
            ],
        ),
        (seen(replace(FIRST, thread=None), opened=frozenset({"null"})), [OVER_TCP]),
        (
            seen(replace(FIRST, thread=None), replace(SECOND, thread=None), opened=frozenset({"uverbs0"})),
            [
                "skip 1 queue pair on mlx5_0:1 not known to be the server's: another pod's, or of a thread that has ended",
                "warn mlx5_1:1 carries no queue pair of the server",
            ],
        ),
        (seen(why_not="Protocol not supported"), ["skip the kernel does not tell who has queue pairs (Protocol not supported)"]),
        (seen(nvlink_domain=True), ["ok no queue pair of the server: in one NVLink domain (IMEX) NCCL needs none"]),
        (None, []),
    ],
)  # fmt: skip
def test_a_group_of_two(what: Seen | None, said: list[str]) -> None:
    assert lines(what) == said


def test_what_the_servers_own_selector_names_is_planned() -> None:
    assert lines(seen(FIRST, selector="=mlx5_0:1")) == [
        f"ok mlx5_0:1 1 queue pair (RC RTS) of process 201; {NO_RATES}"
    ]
    assert lines(seen(selector="=mlx5_0:1")) == [OVER_TCP]
    assert lines(seen(FIRST, selector="^mlx5_1")) == lines(seen(FIRST, selector="=mlx5_0"))


def test_a_device_beside_the_plan() -> None:
    plan = plan_of(healthy(), "--hca", "=mlx5_0", *MODEL)
    assert lines(seen(FIRST, SECOND), plan)[-1].startswith(
        "warn mlx5_1:1 carries queue pairs of the server, but is not in the plan ("
    )
    assert lines(seen(FIRST, SECOND, selector="mlx5"), plan)[-1].startswith("ok mlx5_1:1")
    assert [line.partition(" ")[0] for line in lines(seen(replace(FIRST, device="mlx5_9")), PLAN)] == [
        *("ok", "warn", "warn", "warn")
    ]


def test_who_needs_no_rdma_has_no_warning() -> None:
    assert lines(seen(), ONE_NODE) == ["ok no queue pair of the server: one node needs none"]
    assert lines(seen(FIRST), ONE_NODE) == [f"ok mlx5_0:1 1 queue pair (RC RTS) of process 201; {NO_RATES}"]
    assert lines(seen(), WITHOUT_RDMA) == ["ok no queue pair of the server: RDMA is off (the rdma setting)"]
    assert lines(seen(FIRST), WITHOUT_RDMA)[1:] == [
        "warn mlx5_0:1 carries queue pairs of the server, but is not in the plan (RDMA is switched off)"
    ]


def test_a_replay_does_not_ask_the_machine() -> None:
    assert lines(seen(FIRST), live=False) == ["skip needs the live node"]


def test_the_document() -> None:
    what = seen(
        FIRST,
        replace(FIRST, number=18, peer=ip_address("10.1.0.9")),
        replace(FIRST, thread=None),
        before={"mlx5_0:1": {"sent_pkts": 1, "rcvd_pkts": 1, "rcvd_seq_err": 0}},
        after={"mlx5_0:1": {"sent_pkts": 5, "rcvd_pkts": 3, "rcvd_seq_err": 2}},
    )
    document = as_document(PLAN, what)
    assert document is not None
    assert document["seconds"] == 1.0
    assert document["rails"][0] == {
        "device": "mlx5_0",
        "port": 1,
        "planned": True,
        "queue_pairs": [{"pid": 201, "type": "RC", "state": "RTS", "count": 2}],
        "unknown_queue_pairs": 1,
        "peers": ["10.1.0.9"],
        "sent_per_s": 4.0,
        "received_per_s": 2.0,
        "unit": "packets",
        "lost": {"rcvd_seq_err": 2},
        "marked": {},
    }
    assert [(rail["device"], rail["queue_pairs"]) for rail in document["rails"][1:]] == [("mlx5_1", [])]
    assert as_document(PLAN, None) is None
    assert as_document(PLAN, Seen(why_not="x")) is None
