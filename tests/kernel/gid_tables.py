"""Scenarios in the guest: GID tables as a kernel fills them, on one node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel import churn
from tests.kernel.node import add_addresses, add_hca, clean, gid_table, ip, remove_address, run, until

if TYPE_CHECKING:
    from tests.kernel.node import Command

CHURN_DEADLINE_S = 200
Result = dict[str, Any]


def port_down(command: Command) -> Result:
    """Take the second HCA's interface down; it still has an address and a full table."""
    add_hca("mlx5_0", "eth4", "10.0.1.1/24")
    add_hca("mlx5_1", "eth5", "10.0.2.1/24", up=False)
    return {"table": gid_table("mlx5_1"), "plan": command.dry_run()}


def vlan(command: Command) -> Result:
    """Put the only IPv4 address on a VLAN of the HCA's interface."""
    add_hca("mlx5_0", "eth4")
    ip("link add link eth4 name eth4.100 type vlan id 100", "link set eth4.100 up")
    until(lambda: "3" in gid_table("mlx5_0"), "link-local GID of the VLAN")
    add_addresses("eth4.100", "10.0.100.1/24", device="mlx5_0")
    return {"table": gid_table("mlx5_0"), "plan": command.dry_run()}


def bond(command: Command) -> Result:
    """Put an HCA over an active-backup bond, and let its active card go down."""
    ip("link add bond0 type bond mode active-backup miimon 50")
    ip("link set eth4 master bond0", "link set eth5 master bond0")
    ip("link set eth4 up", "link set eth5 up", "link set bond0 up")
    until(lambda: _text("/sys/class/net/bond0/operstate") == "up", "bond0 is up")
    add_hca("mlx5_bond_0", "bond0", "10.0.1.1/24")
    result: Result = {"table before": gid_table("mlx5_bond_0"), "plan before": command.dry_run()}
    active = Path("/sys/class/net/bond0/bonding/active_slave")
    first = active.read_text().strip()
    ip(f"link set {first} down")
    until(lambda: active.read_text().strip() not in ("", first), "fail-over")
    until(lambda: "0" not in gid_table("mlx5_bond_0"), "default GID moved by the fail-over")
    time.sleep(1)
    return {**result, "table after": gid_table("mlx5_bond_0"), "plan after": command.dry_run()}


def address_added_again(command: Command) -> Result:
    """Remove an address and add it again after another took its slot: index 3 becomes 7."""
    add_hca("mlx5_0", "eth4", "10.0.0.1/24", "10.0.7.1/24")
    result: Result = {"plan before": command.dry_run()}
    remove_address("eth4", "10.0.0.1/24", device="mlx5_0")
    add_addresses("eth4", "10.0.8.1/24", "10.0.0.1/24", device="mlx5_0")
    return {
        **result,
        "table": gid_table("mlx5_0"),
        "plan": command.dry_run(),
        "plan for a subnet": command.dry_run("--subnets", "10.0.8.0/24"),
    }


def unchanged_soft_roce(command: Command) -> Result:
    """Load the kernel's own rdma_rxe instead of the changed one, which makes v1 and v2 GIDs."""
    run("busybox", "rmmod", "rdma_rxe")
    run("busybox", "insmod", "/run/rdma_rxe.ko")
    try:
        add_hca("mlx5_0", "eth4", "10.0.1.1/24")
        return {"table": gid_table("mlx5_0"), "plan": command.dry_run()}
    finally:
        clean()
        run("busybox", "rmmod", "rdma_rxe")
        run("busybox", "insmod", "/run/rdma_rxe_with_v1.ko")


def address_churn(command: Command) -> Result:
    """Discover in one process while addresses of two interfaces take each other's slots."""
    add_hca("mlx5_0", "eth4", "10.0.1.1/24")
    ip("link add link eth4 name eth4.100 type vlan id 100", "link set eth4.100 up")
    until(lambda: len(gid_table("mlx5_0")) == 6, "link-local GIDs of the VLAN")
    steady = gid_table("mlx5_0")
    script = (str(command.path.parent / "python"), "-I", churn.__file__)
    changing = subprocess.Popen([*script, "change"], start_new_session=True)
    try:
        counts = json.loads(run(*script, "read", "mlx5_0", deadline_s=CHURN_DEADLINE_S))
    finally:
        os.killpg(changing.pid, signal.SIGKILL)
        changing.wait()
    return {**counts, "steady": steady}


def _text(path: str) -> str:
    return Path(path).read_text().strip()
