"""SGLang's own --dist-init-addr is completed by the next source, and is no group without one."""

from __future__ import annotations

from tests.planning import plan_of
from tests.trees import Node

ADDRESS = ("--dist-init-addr", "sglang-0.sglang:20000", "--model-path", "/m")
KEY = "leaderworkerset.sigs.k8s.io/"


def node() -> Node:
    return Node().interface("eth0", "10.0.0.11/24").set(gpus=8, versions={"sglang": "0.5.10", "nccl": "2.28.3"})


def test_by_the_downward_api() -> None:
    """LeaderWorkerSet 0.1 and 0.2 inject no variable, but label and annotate their pods."""
    pod = node()
    pod.files["/etc/podinfo/labels"] = f'{KEY}worker-index="1"\n'
    pod.files["/etc/podinfo/annotations"] = f'{KEY}size="4"\n'
    identity = plan_of(pod, "--rdma", "off", *ADDRESS).identity
    assert identity is not None
    assert (identity.leader, identity.size, identity.index) == ("sglang-0.sglang", 4, 1)


def test_alone_it_is_one_node_with_a_fixed_port() -> None:
    identity = plan_of(node(), *ADDRESS).identity
    assert identity is not None
    assert not identity.in_group
