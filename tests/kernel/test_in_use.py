"""--check beside a server in the guest says what `rdma resource show qp` and the counters of the kernel say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

Result = dict[str, Any]
DEVICES = ("mlx5_0", "mlx5_1")


def rails(checked: Result) -> dict[str, Result]:
    return {rail["device"]: rail for rail in checked["document"]["in_use"]["rails"]}


def lines(checked: Result) -> list[str]:
    items = checked["document"]["items"]
    return [f"{item['status']} {item['evidence']}" for item in items if item["name"] == "in use"]


def of_the_server(checked: Result, device: str) -> Counter[tuple[int, str, str]]:
    """Return process, type and state of the server's queue pairs as iproute2 shows them."""
    return Counter(
        (row["pid"], row["type"], row["state"])
        for row in checked["kernel"]
        if row["ifname"] == device and row.get("pid") in checked["processes"]
    )


def said(rail: Result) -> Counter[tuple[int, str, str]]:
    return Counter({(row["pid"], row["type"], row["state"]): row["count"] for row in rail["queue_pairs"]})


def test_queue_pairs_are_those_of_rdma_resource(in_use: Result) -> None:
    both = in_use["both rails"]
    assert {device: said(rail) for device, rail in rails(both).items()} == {
        device: of_the_server(both, device) for device in DEVICES
    }
    assert all(of_the_server(both, device).total() == 2 for device in DEVICES)
    # Without capabilities, as everything of this check was.
    assert [line.partition(";")[0].partition(" of process ")[0] for line in lines(both)[:2]] == [
        "ok mlx5_0:1 2 queue pairs (RC RTR)",  # ib_write_bw's server only receives
        "ok mlx5_1:1 2 queue pairs (RC RTS)",
    ]


def test_traffic_is_that_of_the_counters(in_use: Result) -> None:
    both = in_use["both rails"]
    for device, rail in rails(both).items():
        before, after = both["before"][device], both["after"][device]
        assert rail["unit"] == "packets"
        for side, counter in (("sent_per_s", "sent_pkts"), ("received_per_s", "rcvd_pkts")):
            # A second within the check: something passed, and no more than during all of it.
            assert 0 < rail[side] * both["document"]["in_use"]["seconds"] <= after[counter] - before[counter]
        assert all(count <= after[name] - before[name] for name, count in rail["lost"].items())


def test_another_process_on_the_second_rail_is_not_the_server(in_use: Result) -> None:
    one = in_use["one rail"]
    assert said(rails(one)["mlx5_0"]) == of_the_server(one, "mlx5_0")
    assert said(rails(one)["mlx5_0"]).total() == 2
    assert any(row.get("comm") == "ib_write_bw" for row in one["kernel"] if row["ifname"] == "mlx5_1")
    assert "warn mlx5_1:1 carries no queue pair of the server" in lines(one)


def test_a_group_over_sockets_is_found_out(in_use: Result) -> None:
    assert lines(in_use["sockets"]) == [
        "warn no process of the server has a queue pair: NCCL runs over TCP, or has not connected yet"
    ]


def test_queue_pairs_of_nccl_are_seen_on_both_rails(in_use_by_nccl: Result) -> None:
    by_device = rails(in_use_by_nccl)
    assert {device: said(rail) for device, rail in by_device.items()} == {
        device: of_the_server(in_use_by_nccl, device) for device in DEVICES
    }
    for device in DEVICES:
        assert {(kind, state) for _, kind, state in said(by_device[device])} == {("RC", "RTS")}
    assert [line[:2] for line in lines(in_use_by_nccl)] == ["ok", "ok"]


def test_another_network_namespace_reads_the_same_without_privilege(in_use: Result) -> None:
    other = in_use["another network"]
    rows = [row for row in other["kernel"] if "pid" in row]
    assert Counter((one["device"], one["number"], one["thread"]) for one in other["read"]["pairs"]) == Counter(
        (row["ifname"], row["lqpn"], row["pid"]) for row in rows
    )
    # Its own /sys has no counters of a device in the shared mode; the kernel tells them all the same.
    for device in DEVICES:
        counters = other["read"]["counters"][device]
        assert counters.keys() == other["before"][device].keys()
        assert all(
            other["before"][device][name] <= value <= other["after"][device][name]
            for name, value in counters.items()
        )


def test_peers_of_rdma_cm(in_use: Result) -> None:
    peers = {(one["device"], one["peer"]) for one in in_use["rdma_cm"]["read"]["pairs"]}
    assert peers == {("mlx5_0", "10.0.2.1"), ("mlx5_1", "10.0.1.1")}


def test_the_kernel_names_threads_and_none_that_has_ended(in_use_by_threads: Result) -> None:
    threads = [row["pid"] for row in in_use_by_threads["kernel"] if "pid" in row]
    assert len(threads) == 1
    assert threads[0] not in in_use_by_threads["processes"]
    by_device = rails(in_use_by_threads)
    assert [row["pid"] for row in by_device["mlx5_0"]["queue_pairs"]] == in_use_by_threads["processes"][1:]
    assert (by_device["mlx5_1"]["queue_pairs"], by_device["mlx5_1"]["unknown_queue_pairs"]) == ([], 1)
    assert not [line for line in lines(in_use_by_threads) if line.startswith("warn")]
