"""Scenarios in the guest: what pods see of the node's HCAs, in both modes of RDMA network namespaces."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from tests.kernel.node import add_hca, gid_table, ip, run, until, verbs_devices

if TYPE_CHECKING:
    from tests.kernel.node import Command

Result = dict[str, Any]


def shared_pod(command: Command) -> Result:
    """Look from a pod in shared mode, whose own interface has the name of the node's HCA's."""
    # The cards' names stay as they are, so the HCA's card is eth0, as on a node.
    add_hca("mlx5_0", "eth0", "10.0.1.1/24")
    ip("netns add pod", "link add node0 type veth peer name eth0 netns pod", "link set node0 up")
    ip("link set eth0 up", "addr add 10.244.0.5/24 dev eth0", netns="pod")
    pod = ("ip", "netns", "exec", "pod")
    return {
        "table": gid_table("mlx5_0"),
        "names in the pod": run(*pod, "ls", "/sys/class/net").split(),
        "plan on the node": command.dry_run(),
        "plan": command.dry_run("--rdma", "required", inside=pod),
        "plan with foreign GIDs allowed": command.dry_run("--foreign-gids", "allow", inside=pod),
    }


def exclusive_pods(command: Command) -> Result:
    """Look from two pods in exclusive mode: one has an HCA of its own, one has none."""
    run("rdma", "system", "set", "netns", "exclusive")
    add_hca("mlx5_0", "eth4", "10.0.1.1/24")
    add_hca("mlx5_2", "eth6", "10.0.3.1/24")
    ip("netns add pod", "netns add empty", "link set eth5 netns pod")
    ip("link set lo up", "link set eth5 name net1", "link set net1 up", netns="pod")
    pod, empty = ("ip", "netns", "exec", "pod"), ("ip", "netns", "exec", "empty")
    run(*pod, "rdma", "link", "add", "mlx5_1", "type", "rxe", "netdev", "net1")
    ip("addr add 10.0.2.1/24 dev net1", netns="pod")
    run("rdma", "dev", "set", "mlx5_1", "netns", "pod")
    this_process = (sys.executable, "-c", "from tests.kernel import pods; pods.print_verbs_devices()")
    until(lambda: "ok" in json.loads(run(*pod, *this_process)).values(), "mlx5_1 moved into the pod")
    return {
        "verbs devices": {
            "node": verbs_devices(),
            "pod": json.loads(run(*pod, *this_process)),
            "empty": json.loads(run(*empty, *this_process)),
        },
        "plan on the node": command.dry_run(),
        "plan": command.dry_run("--rdma", "required", inside=pod),
        "plan in the empty pod": command.dry_run("--rdma", "required", inside=empty),
        # `ip netns exec` mounts a /sys of the namespace; nsenter leaves the node's, as a hostPath volume does.
        "plan with the node's /sys": command.dry_run(
            "--rdma", "required", inside=("nsenter", "--net=/run/netns/pod")
        ),
        "plan in the empty pod with the node's /sys": command.dry_run(
            "--rdma", "required", inside=("nsenter", "--net=/run/netns/empty")
        ),
    }


def print_verbs_devices() -> None:
    """Print what this process may open, for a process in another network namespace."""
    print(json.dumps(verbs_devices()))
