"""What is done in the guest, scenario by scenario. Each returns plain data; the tests on the host judge it.

    python -m tests.kernel.scenarios COMMAND NAME...

runs the named scenarios one after the other on cleaned ground and leaves /out/NAME.json for each: its result, or
the traceback that ended it, and the seconds it took.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel import churn
from tests.kernel.node import (
    OUT,
    Command,
    KernelEvents,
    add_addresses,
    add_hca,
    carries_traffic,
    clean,
    gid_table,
    ip,
    remove_address,
    run,
    set_sysctl,
    until,
    verbs_devices,
    write_standin_sglang,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SCENARIO_DEADLINE_S = 240
ARRIVAL_S = 3.0
IN_ROUTER = ("ip", "netns", "exec", "router")

Result = dict[str, Any]


def routed_fabric(command: Command) -> Result:
    """Try every index of one HCA against every index of the other, over a router."""
    _lay_routed_fabric()
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


def _lay_routed_fabric() -> None:
    # Two HCAs on two leaves with a router between them. What was added first stands first in the
    # table, so the IPv4 address is at index 3 of one and at 5 of the other.
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
    # asked only for what a card received, and the way to the other end is a route by the router.
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


def nccl_transfer(command: Command) -> Result:
    """Send a message with each NCCL release in our environment, and with index 3 on both."""
    _lay_routed_fabric()
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


def port_down(command: Command) -> Result:
    """Take the second HCA's interface down; it has an address, and a full table all the same."""
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
    this_process = (sys.executable, "-c", "from tests.kernel import scenarios; scenarios.print_verbs_devices()")
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


def late_address(command: Command) -> Result:
    """Add the address 3 s after the launch. No kernel event tells of it."""
    add_hca("mlx5_0", "eth4")
    return _launch_and_arrive(command, lambda: ip("addr add 10.0.1.1/24 dev eth4"), "late-address")


def late_hca(command: Command) -> Result:
    """Add the HCA 3 s after the launch, over an interface that has its address."""
    ip("link set eth4 up", "addr add 10.0.1.1/24 dev eth4")
    arrive = ("rdma", "link", "add", "mlx5_0", "type", "rxe", "netdev", "eth4")
    return _launch_and_arrive(command, lambda: run(*arrive), "late-hca")


def healthy(command: Command) -> Result:
    """Launch on a node that has everything: nothing is waited for."""
    add_hca("mlx5_0", "eth4", "10.0.1.1/24")
    record = OUT / "healthy.record"
    answer = command("--rdma", "required", "--model-path", "m", STANDIN_RECORD=str(record))
    return {
        "status": answer.status,
        "stderr": answer.stderr,
        "wall_s": answer.wall_s,
        "environ": json.loads(record.read_text())["environ"] if record.exists() else None,
    }


def never(command: Command) -> Result:
    """Launch where no HCA ever comes."""
    started = time.monotonic()
    record = OUT / "never.record"
    answer = command(
        "--rdma", "required", "--hca-wait", "3", "--linger", "0", "--model-path", "m", STANDIN_RECORD=str(record)
    )
    return {
        "status": answer.status,
        "stderr": answer.stderr,
        "launched": record.exists(),
        "wall_s": time.monotonic() - started,
    }


def _launch_and_arrive(command: Command, arrive: Callable[[], object], name: str) -> Result:
    record, log = OUT / f"{name}.record", OUT / f"{name}.log"
    started_s = time.monotonic()
    arguments = ("--rdma", "required", "--hca-wait", "60", "--model-path", "m")
    process = command.start(*arguments, log=log, STANDIN_RECORD=str(record))
    try:
        # At least 3 s, and not before the launcher has looked and said that it waits: a start is slow under TCG.
        until(lambda: process.poll() is not None or "wait" in log.read_text(), "the launcher waits", 60)
        time.sleep(max(ARRIVAL_S - (time.monotonic() - started_s), 0.0))
        running_before = process.poll() is None and not record.exists()
        time.sleep(1)
        running_before = running_before and process.poll() is None and not record.exists()
        arrived_s = time.monotonic()
        with contextlib.closing(KernelEvents()) as events:
            arrive()
            status = process.wait(60)
            heard = events.heard()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    launched = json.loads(record.read_text()) if record.exists() else None
    return {
        "waited": running_before,
        "status": status,
        "stderr": log.read_text(),
        "arrival after start s": arrived_s - started_s,
        "launch after arrival s": launched["at_s"] - arrived_s if launched else None,
        "environ": launched["environ"] if launched else None,
        "argv": launched["argv"] if launched else None,
        "events": heard,
        "table": gid_table("mlx5_0"),
    }


def address_churn(command: Command) -> Result:
    """Discover in one process while addresses of two interfaces take each other's slots."""
    add_hca("mlx5_0", "eth4", "10.0.1.1/24")
    ip("link add link eth4 name eth4.100 type vlan id 100", "link set eth4.100 up")
    until(lambda: len(gid_table("mlx5_0")) == 6, "link-local GIDs of the VLAN")
    steady = gid_table("mlx5_0")
    script = (str(command.path.parent / "python"), "-I", churn.__file__)
    changing = subprocess.Popen([*script, "change"], start_new_session=True)
    try:
        counts = json.loads(run(*script, "read", "mlx5_0", deadline_s=SCENARIO_DEADLINE_S))
    finally:
        os.killpg(changing.pid, signal.SIGKILL)
        changing.wait()
    return {**counts, "steady": steady}


def _text(path: str) -> str:
    return Path(path).read_text().strip()


SCENARIOS: dict[str, Callable[[Command], Result]] = {
    scenario.__name__: scenario
    for scenario in (
        routed_fabric,
        nccl_transfer,
        port_down,
        vlan,
        bond,
        address_added_again,
        unchanged_soft_roce,
        shared_pod,
        late_address,
        late_hca,
        healthy,
        never,
        address_churn,
        exclusive_pods,
    )
}


def main(command: Command, names: list[str]) -> None:
    write_standin_sglang()
    for name in names:
        started = time.monotonic()
        outcome: Result = {}
        try:
            signal.alarm(SCENARIO_DEADLINE_S)  # its default action ends a scenario that hangs, and the run
            clean()
            outcome["result"] = SCENARIOS[name](command)
        except Exception:  # noqa: BLE001 - the host's test shows it
            outcome["error"] = traceback.format_exc()
        finally:
            signal.alarm(0)
        outcome["wall_s"] = time.monotonic() - started
        (OUT / f"{name}.json").write_text(json.dumps(outcome, indent=1))
        print(f"{name}: {outcome['wall_s']:.1f} s", flush=True)


if __name__ == "__main__":
    main(Command(Path(sys.argv[1])), sys.argv[2:])
