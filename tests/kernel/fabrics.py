"""Scenarios in the guest: RDMA traffic between two HCAs, with a router between them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel.node import OUT, add_hca, carries_traffic, gid_table, ip, run, set_sysctl

if TYPE_CHECKING:
    from tests.kernel.node import Command

IN_ROUTER = ("ip", "netns", "exec", "router")
Result = dict[str, Any]


def routed_fabric(command: Command) -> Result:
    """Try every index of one HCA against every index of the other, over a router."""
    lay_routed_fabric()
    result: Result = {
        "tables": {device: gid_table(device) for device in ("mlx5_0", "mlx5_1")},
        "plan": command.dry_run(),
        "plan without NCCL": command.dry_run(nccl=None),
        "plan with the index fixed to 3": command.dry_run(NCCL_IB_GID_INDEX="3"),
        "plan by IPv6": command.dry_run("--family", "ipv6"),
    }
    result["passing pairs"] = [
        [near, far]
        for near, far in itertools.product(range(6), range(6))
        if carries_traffic(("mlx5_0", near), ("mlx5_1", far))
    ]
    counters = run(*IN_ROUTER, "cat", "/proc/net/snmp").splitlines()
    names, values = (line.split() for line in counters if line.startswith("Ip:"))
    result["packets forwarded"] = int(dict(zip(names, values, strict=True))["ForwDatagrams"])
    return result


def nccl_transfer(command: Command) -> Result:
    """Send a message with each NCCL release in our environment, and with index 3 on both."""
    lay_routed_fabric()
    result: Result = {}
    for release in json.loads((OUT / "nccl-releases.json").read_text()):
        plan = command.dry_run(nccl=release["version"])
        values = {name: row["value"] for name, row in plan["environment"].items()}
        ours = {name: value for name, value in values.items() if value is not None}
        wrong = {**ours, "NCCL_IB_GID_INDEX": "3"}
        result[release["version"]] = {
            "plan": plan,
            "ours": _transfer(command, release, ours),
            "index 3 on both": _transfer(command, release, wrong),
        }
    return result


def _transfer(command: Command, release: Result, variables: dict[str, str]) -> Result:
    log = OUT / f"nccl-{release['version']}-{len(list(OUT.glob('nccl-*.log')))}.log"
    log.write_text("")
    environment = {
        **command.environment(nccl=None),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "NCCL_CONF_FILE": os.devnull,
        # The connection is arranged over sockets, which both ends have on loopback here.
        "NCCL_SOCKET_IFNAME": "=lo",
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET",
        "NCCL_DEBUG_FILE": str(log),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernel.nccl_transfer", json.dumps(release)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    answer: Result = json.loads(done.stdout) if done.returncode == 0 else {}
    return {**answer, "status": done.returncode, "stderr": done.stderr, "log": log.read_text()}


def lay_routed_fabric() -> None:
    """Put two HCAs on two leaves, with a router between them.

    What was added first stands first in the table, so the IPv4 address is at index 3 of one and at 5 of the other.
    """
    for name in ("all", "eth0", "eth1"):
        set_sysctl(f"net/ipv4/conf/{name}/rp_filter", "0")
    for name, value in (("accept_local", "1"), ("arp_ignore", "1"), ("arp_announce", "2")):
        set_sysctl(f"net/ipv4/conf/all/{name}", value)
    ip("netns add router", "link set eth2 netns router", "link set eth3 netns router")
    for leaf, netdev in ((1, "eth2"), (2, "eth3")):
        ip(
            f"link set {netdev} up",
            f"addr add 10.0.{leaf}.254/24 dev {netdev}",
            f"addr add fd00:{leaf}::fe/64 dev {netdev} nodad",
            netns="router",
        )
    forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    run(*IN_ROUTER, "sysctl", "-qw", *forwarding, "net.ipv4.conf.all.rp_filter=0")
    add_hca("mlx5_0", "eth0", "10.0.1.1/24", "fd00:1::1/64")
    add_hca("mlx5_1", "eth1", "fd00:2::1/64", "10.0.2.1/24")
    # Both ends are in one kernel, which would deliver its own addresses itself: the local table is
    # asked only for what a card received, and the route to the other end goes through the router.
    for family, near, far, near_router, far_router in (
        (4, "10.0.1.1", "10.0.2.1", "10.0.1.254", "10.0.2.254"),
        (6, "fd00:1::1", "fd00:2::1", "fd00:1::fe", "fd00:2::fe"),
    ):
        ip(
            "rule add pref 10 iif eth0 lookup local",
            "rule add pref 11 iif eth1 lookup local",
            f"rule add pref 20 from {near} to {far} lookup 101",
            f"rule add pref 21 from {far} to {near} lookup 102",
            f"route add {far} via {near_router} dev eth0 table 101",
            f"route add {near} via {far_router} dev eth1 table 102",
            "rule add pref 30 lookup local",
            "rule del pref 0",
            family=family,
        )
