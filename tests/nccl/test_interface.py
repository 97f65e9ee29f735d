"""The control interface: the address that NCCL's bootstrap takes, in namespaces with several links."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.layers import skip_or_fail
from tests.nccl.judge import Judge
from tests.nccl.links import Link, Namespace, NamespaceUnavailableError, namespace
from tests.nccl.nodes import environment_of
from tests.nccl.plans import run_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nccl.wheels import Release


@dataclass(frozen=True, slots=True)
class Topology:
    """Links in the order in which they are made, and what is right among them."""

    links: tuple[Link, ...]
    leader: str
    expected: str
    routes: tuple[tuple[str, ...], ...] = ()


TOPOLOGIES = {
    "cni0 before a bond": Topology(
        (Link("cni0", ("10.244.0.1/24",)), Link("bond0", ("192.168.10.5/24",), bond=True)),
        leader="192.168.10.9",
        expected="192.168.10.5",
    ),
    "docker0 before eth0": Topology(
        (Link("docker0", ("172.17.0.1/16",)), Link("eth0", ("10.0.0.5/24",))),
        leader="10.0.0.9",
        expected="10.0.0.5",
    ),
    "an ib... link": Topology(
        (Link("eth0", ("10.0.0.5/24",)), Link("ibs1", ("10.9.0.5/24",))),
        leader="10.0.0.9",
        expected="10.0.0.5",
    ),
    "net1 before eth0, the leader behind a router": Topology(
        (Link("net1", ("10.20.0.5/24",)), Link("eth0", ("10.244.3.7/24",))),
        leader="10.244.9.9",
        expected="10.244.3.7",
        routes=(("default", "via", "10.244.3.1"),),
    ),
    "a link that is down": Topology(
        (Link("kube-ipvs0", ("10.96.0.1/32",), up=False), Link("eth0", ("10.0.0.5/24",))),
        leader="10.0.0.9",
        expected="10.0.0.5",
    ),
    "eth1 beside eth10": Topology(
        (Link("eth10", ("10.10.0.5/24",)), Link("eth1", ("10.0.0.5/24",))),
        leader="10.0.0.9",
        expected="10.0.0.5",
    ),
    "IPv6 only": Topology(
        (Link("net1"), Link("eth0", ("fd00:1::5/64",))),
        leader="fd00:1::9",
        expected="fd00:1::5",
    ),
    "both families, the leader by IPv6": Topology(
        (Link("eth0", ("10.0.0.5/24", "fd00:1::5/64")),),
        leader="fd00:1::9",
        expected="fd00:1::5",
    ),
    "both families, the leader by IPv4": Topology(
        (Link("net1", ("fd00:2::5/64",)), Link("eth0", ("fd00:1::5/64", "10.0.0.5/24"))),
        leader="10.0.0.9",
        expected="10.0.0.5",
    ),
}


@pytest.fixture(scope="module")
def namespaces() -> Iterator[dict[str, Namespace]]:
    if os.geteuid() != 0:
        skip_or_fail("nccl", "needs root: the links are made in network namespaces.")
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if missing:
        skip_or_fail("nccl", f"needs {', '.join(missing)} (Debian: iproute2 util-linux).")
    made: dict[str, Namespace] = {}
    try:
        for name, topology in TOPOLOGIES.items():
            made[name] = namespace(topology.links, topology.routes)
    except NamespaceUnavailableError as error:
        skip_or_fail("nccl", f"needs network namespaces: {error}.")
    else:
        yield made
    finally:
        for one in made.values():
            one.close()


def planned_sockets(inside: Namespace, leader: str, index: int) -> dict[str, str]:
    """Return the socket variables that our command plans inside, for one pod of a group of two."""
    options = ["--rdma", "optional", "--gpus", "1", "--group-size", "2"]
    address = f"[{leader}]" if ":" in leader else leader
    options += ["--leader-address", address, "--worker-index", str(index)]
    plan = run_plan(options, prefix=inside.prefix)
    wanted = ("NCCL_SOCKET_IFNAME", "NCCL_SOCKET_FAMILY", "SGLANG_HOST_IP")
    return {name: value for name, value in environment_of(plan).items() if name in wanted}


def bootstrap(release: Release, inside: Namespace, environment: dict[str, str]) -> tuple[int | None, str | None]:
    judge = Judge(release, prefix=inside.prefix)
    try:
        return judge.bootstrap(environment)
    finally:
        judge.close()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_nccl_listens_on_the_planned_address_of_a_worker(
    release: Release, namespaces: dict[str, Namespace], name: str
) -> None:
    topology = TOPOLOGIES[name]
    environment = planned_sockets(namespaces[name], topology.leader, index=1)
    assert environment["SGLANG_HOST_IP"] == topology.expected
    assert bootstrap(release, namespaces[name], environment) == (0, topology.expected)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_nccl_listens_on_the_planned_address_of_the_leader(
    release: Release, namespaces: dict[str, Namespace], name: str
) -> None:
    """On the leader the address that the workers know it by is its own."""
    topology = TOPOLOGIES[name]
    environment = planned_sockets(namespaces[name], topology.expected, index=0)
    assert environment["SGLANG_HOST_IP"] == topology.expected
    assert bootstrap(release, namespaces[name], environment) == (0, topology.expected)


def test_without_our_environment_several_topologies_go_wrong(
    release: Release, namespaces: dict[str, Namespace]
) -> None:
    """Otherwise the tests above would prove nothing."""
    wrong = [
        name
        for name, topology in TOPOLOGIES.items()
        if bootstrap(release, namespaces[name], {}) != (0, topology.expected)
    ]
    assert "cni0 before a bond" in wrong
    assert "an ib... link" in wrong
    assert "net1 before eth0, the leader behind a router" in wrong
    # Since 2.28 a link must be running.
    assert ("a link that is down" in wrong) == (release.number < (2, 28))
    assert "docker0 before eth0" not in wrong


def test_a_wrong_interface_is_noticed(release: Release, namespaces: dict[str, Namespace]) -> None:
    name = "cni0 before a bond"
    wrong = {"NCCL_SOCKET_IFNAME": "=cni0"}
    assert bootstrap(release, namespaces[name], wrong) == (0, "10.244.0.1")
    # The prefix form takes eth10, which was made first; the exact form does not.
    name = "eth1 beside eth10"
    assert bootstrap(release, namespaces[name], {"NCCL_SOCKET_IFNAME": "eth1"}) == (0, "10.10.0.5")
    assert bootstrap(release, namespaces[name], {"NCCL_SOCKET_IFNAME": "=eth1"}) == (0, "10.0.0.5")


def test_an_interface_that_is_not_there_is_an_error(release: Release, namespaces: dict[str, Namespace]) -> None:
    name = "docker0 before eth0"
    rc, address = bootstrap(release, namespaces[name], {"NCCL_SOCKET_IFNAME": "=eth"})
    assert rc not in (0, None)
    assert address is None
