"""What goes wrong in a manifest, and that the launcher says it: on a fitting node, with the pod's args."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.manifests.injection import container_environment, lws_variables
from tests.manifests.manifest_set import K8S, PodTemplate, built, serving_templates
from tests.manifests.nodes import CONTAINERD_MEMLOCK_BYTES, launcher, node_of, run_member

if TYPE_CHECKING:
    from tests.manifests.nodes import Node

HOST, RESTRICTED = "roce-hostnetwork/shared-device-plugin", "roce-sriov/restricted"


def _pod(variant: str) -> PodTemplate:
    (pod,) = serving_templates(built(K8S / variant))
    return pod


def test_index_of_an_old_lws_is_missing(nodes: dict[str, Node]) -> None:
    """LeaderWorkerSet up to 0.5 injects no index: an incomplete identity, not rank 0."""
    pod = _pod(HOST)
    injected = lws_variables(pod.owner, 0, 1)
    del injected["LWS_WORKER_INDEX"]
    node = node_of(pod, nodes)
    node.place(pod, injected["LWS_LEADER_ADDRESS"], 1)
    environment = container_environment(pod, pod.containers[0], injected)
    outcome = launcher(str(node.folder), pod.containers[0]["args"], environment, "--dry-run=json")
    assert outcome.code == 78


def test_pod_without_rdma_resource_is_refused(nodes: dict[str, Node]) -> None:
    pod = _pod(HOST)
    del pod.containers[0]["resources"]["limits"]["rdma/hca_shared_devices_a"]
    outcome = run_member(pod, 1, nodes)
    assert outcome.code == 69
    assert {port["reason"] for port in outcome.plan["ports"]} == {"NO_VERBS"}


def test_restricted_needs_the_node_s_memlock(nodes: dict[str, Node]) -> None:
    pod = _pod(RESTRICTED)
    assert run_member(pod, 1, nodes).code == 0
    assert run_member(pod, 1, nodes, memlock=CONTAINERD_MEMLOCK_BYTES).code == 69


def test_dropping_ipc_lock_for_root_is_refused(nodes: dict[str, Node]) -> None:
    pod = _pod(HOST)
    del pod.containers[0]["securityContext"]["capabilities"]["add"]
    assert run_member(pod, 0, nodes).code == 69


def test_guide_s_arguments_are_taken_over(nodes: dict[str, Node]) -> None:
    """Who moves the guide's argument list over as it is gets the same plan, nothing twice."""
    pod = _pod(HOST)
    pod.containers[0]["args"] += [
        "--tp", "16",
        "--dist-init-addr", "$(LWS_LEADER_ADDRESS):20000",
        "--nnodes", "$(LWS_GROUP_SIZE)",
        "--node-rank", "$(LWS_WORKER_INDEX)",
        "--host", "0.0.0.0",
    ]  # fmt: skip
    outcome = run_member(pod, 1, nodes)
    assert outcome.code == 0, outcome.stderr
    argv = outcome.plan["argv"]
    for option in ("--nnodes", "--node-rank", "--dist-init-addr", "--host"):
        assert argv.count(option) == 1
    assert "--tp-size" not in argv
    assert outcome.plan["identity"]["index"] == 1


def test_whole_command_in_args_is_a_launch_of_its_arguments(nodes: dict[str, Node]) -> None:
    """The README's last words on migration: what follows the module is SGLang's, ranks and all."""
    plain = run_member(_pod(HOST), 1, nodes)
    pod = _pod(HOST)
    pod.containers[0]["args"] = ["python3", "-m", "sglang.launch_server", *pod.containers[0]["args"]]
    whole = run_member(pod, 1, nodes)
    assert whole.plan == plain.plan
    assert whole.plan["argv"][whole.plan["argv"].index("--node-rank") + 1] == "1"
