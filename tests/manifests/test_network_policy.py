"""The policy of the pod network, applied with the kernel's packet filter to nodes that are namespaces.

No CNI runs here: what a policy means is ``network_policy.py``, and the packets are the kernel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.layers import skip_or_fail
from tests.manifests.manifest_set import K8S, built, serving_templates
from tests.manifests.network_policy import Allowed, Pod, allowed, chains
from tests.manifests.rules.closed import STRANGER, as_pod
from tests.manifests.rules.walk import of_kind
from tests.process.command import install_standin
from tests.process.group import ATTENTION_DP, OPTIONS, SGLANG_ARGUMENTS, lws, nodes_of
from tests.process.nodes import Cluster, Node, missing_requirement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VARIANT = "roce-sriov/ipc-lock"
RENDEZVOUS, EPHEMERAL, HTTP, ELSEWHERE = 20000, 41234, 8100, 443
MEETS_S = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a running fabric with DNS and no nodes yet; SGLang is a stand-in."""
    missing = missing_requirement()
    if missing:
        skip_or_fail("manifests", missing)
    with Cluster(tmp_path, install_standin(tmp_path)) as running:
        yield running


@pytest.fixture
def group(cluster: Cluster) -> list[Node]:
    """Return leader and worker with the policy in force, and an outsider without one."""
    nodes = nodes_of(cluster, 2)
    manifests = built(K8S / VARIANT)
    (template,) = serving_templates(manifests)
    pods = [as_pod(template, node.address) for node in nodes]
    for node, pod in zip(nodes, pods, strict=True):
        for rule in chains(of_kind(manifests, "NetworkPolicy"), pod, pods):
            node.filter(*rule)
    return [*nodes, cluster.add_node("outsider")]


def test_inside_all_ports_from_outside_http_out_only_dns(group: list[Node]) -> None:
    leader, worker, outsider = group
    listening = [node.listen(port) for node in group[:2] for port in (RENDEZVOUS, EPHEMERAL, HTTP)]
    listening += [outsider.listen(port) for port in (53, ELSEWHERE)]
    assert len(listening) == 8
    for port in (RENDEZVOUS, EPHEMERAL, HTTP):
        assert worker.reaches(leader, port)
        assert leader.reaches(worker, port)
        assert outsider.reaches(leader, port) == outsider.reaches(worker, port) == (port == HTTP)
    assert leader.reaches(outsider, 53)
    assert not leader.reaches(outsider, ELSEWHERE)


def test_a_group_meets_and_starts_behind_it(group: list[Node]) -> None:
    """The ring of neighbours on ephemeral ports is among what it needs."""
    arguments = [*OPTIONS, "--wait-deadline", "60", *SGLANG_ARGUMENTS, *ATTENTION_DP]
    launches = [node.start(arguments, lws(index)) for index, node in enumerate(group[:2])]
    for launch in launches:
        launch.wait_record(MEETS_S)
        assert "the group of 2 has met" in launch.text()


def test_what_is_not_known_is_no_pass() -> None:
    pod = Pod({"a": "b"}, {})
    policy = {"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {}}]}]}}
    with pytest.raises(ValueError, match="peer without a rule"):
        allowed([policy], pod, "Ingress")
    policy["spec"]["podSelector"] = {"matchExpressions": []}
    with pytest.raises(ValueError, match="selector without a rule"):
        allowed([policy], pod, "Ingress")


def test_a_pod_without_a_policy_is_open() -> None:
    policy = {"spec": {"podSelector": {"matchLabels": {"a": "c"}}, "policyTypes": ["Ingress"]}}
    assert allowed([policy], Pod({"a": "b"}, {}), "Ingress") is None
    assert allowed([policy], Pod({"a": "c"}, {}), "Ingress") == []
    assert Allowed(None).covers(STRANGER, "UDP", 1)
