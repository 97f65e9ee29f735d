"""What the launcher makes of every pod: the real program, a fitting node, exactly the pod's args."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.layers import skip_or_fail
from tests.manifests.injection import container_arguments, container_environment, gpu_count, lws_variables
from tests.manifests.manifest_set import (
    K8S,
    Manifest,
    PodTemplate,
    built,
    pod_templates,
    serving_templates,
    variants,
)
from tests.manifests.nodes import Node, Outcome, launcher, node_of, run_member

if TYPE_CHECKING:
    from collections.abc import Callable

HOST, PREFILL_DECODE = "roce-hostnetwork/shared-device-plugin", "prefill-decode/shared-device-plugin"
PREFLIGHTS = [variant for variant in variants() if variant.startswith("preflight")]
REHEARSALS = [variant for variant in variants() if variant.startswith("rehearsal")]
SERVING = [variant for variant in variants() if variant not in (*PREFLIGHTS, *REHEARSALS)]


def value(argv: list[str], option: str) -> str:
    """Return the word after ``option``, which stands there once."""
    assert argv.count(option) == 1, argv
    return argv[argv.index(option) + 1]


def servers(variant: str) -> list[PodTemplate]:
    """Return the groups of a variant: one, or prefill and decode."""
    return serving_templates(built(K8S / variant))


def router() -> PodTemplate:
    """Return the router's pod."""
    (pod,) = [pod for pod in pod_templates(built(K8S / PREFILL_DECODE)) if pod.kind == "Deployment"]
    return pod


def assert_member(pod: PodTemplate, index: int, outcome: Outcome, leader: str, node: Node) -> None:
    """Assert that the plan is the one of pod ``index`` of the group of ``leader``."""
    plan = outcome.plan
    size = pod.owner["spec"]["leaderWorkerTemplate"]["size"]
    assert (outcome.code, plan["exit_code"]) == (0, 0), outcome.stderr
    assert [problem for problem in plan["problems"] if problem["severity"] == "error"] == []
    assert plan["identity"] == {"leader": leader, "size": size, "index": index, "source": "LWS_*"}

    argv = plan["argv"]
    assert argv[1:3] == ["-m", "sglang.launch_server"]
    assert value(argv, "--nnodes") == str(size)
    assert value(argv, "--node-rank") == str(index)
    assert value(argv, "--dist-init-addr") == f"{leader}:20000"
    assert (
        value(argv, "--tp-size") == str(gpu_count(pod.containers[0]) * size) == str(node.recorded["gpus"] * size)
    )
    assert value(argv, "--host") == "0.0.0.0"
    given = pod.containers[0]["args"]
    assert argv[-len(given) :] == given

    wait = plan["wait"]
    assert wait["host"] == leader
    expected = ("own_name", []) if index == 0 else ("leader", [20000, 20001, 20013])
    assert (wait["for"], wait["ports"]) == expected

    ports = {port["device"]: port for port in plan["ports"]}
    assert [device for device, port in ports.items() if port["used"]] == node.devices
    # One subnet for each rail, and on each port the pod's own address.
    own = {ports[device]["gid"] for device in node.devices}
    assert len(own) == len(node.devices)
    if node.peer_address.startswith("10.244.") and own:
        assert {address.rsplit(".", 1)[1] for address in own} == {"173"}
    environment = plan["environment"]
    assert environment["NCCL_SOCKET_IFNAME"]["value"] == "=eth0"
    assert environment["SGLANG_HOST_IP"]["value"] == node.control_address
    if not node.devices:  # NVLink between the nodes
        assert environment["NCCL_IB_HCA"]["value"] is None
        assert "NCCL_NET" not in environment
        assert [problem["code"] for problem in plan["problems"]] == ["NVLINK_ONLY"]
        return
    assert environment["NCCL_IB_HCA"]["value"] == "=" + ",".join(f"{device}:1" for device in node.devices)
    (index_of_all,) = {ports[device]["gid_index"] for device in node.devices}
    assert environment["NCCL_IB_GID_INDEX"]["value"] == str(index_of_all)


@pytest.mark.parametrize("variant", SERVING)
def test_every_member_of_the_group(variant: str, nodes: dict[str, Node]) -> None:
    pods = servers(variant)
    assert pods != []
    for pod in pods:
        name = pod.owner["metadata"]["name"]
        for index in range(pod.owner["spec"]["leaderWorkerTemplate"]["size"]):
            outcome = run_member(pod, index, nodes)
            assert_member(pod, index, outcome, f"{name}-0.{name}.inference", node_of(pod, nodes))


def _larger(group: Manifest) -> None:
    group["spec"]["leaderWorkerTemplate"]["size"] = 3


def _second(group: Manifest) -> None:
    group["spec"]["replicas"] = 2


def _own_subdomain(group: Manifest) -> None:
    group["spec"]["networkConfig"] = {"subdomainPolicy": "UniquePerReplica"}


@pytest.mark.parametrize(
    ("change", "group", "index", "leader"),
    [
        (_larger, 0, 2, "sglang-0.sglang.inference"),
        (_second, 1, 1, "sglang-1.sglang.inference"),
        (_own_subdomain, 0, 1, "sglang-0.sglang-0.inference"),
    ],
)
def test_what_users_change_in_the_group(
    change: Callable[[Manifest], None], group: int, index: int, leader: str, nodes: dict[str, Node]
) -> None:
    """``size`` alone makes a larger group; replicas are further groups; the subdomain may be the leader's."""
    (pod,) = servers(HOST)
    change(pod.owner)
    outcome = run_member(pod, index, nodes, group=group)
    assert_member(pod, index, outcome, leader, node_of(pod, nodes))


def test_fewer_gpus_make_a_smaller_tp(nodes: dict[str, Node]) -> None:
    (pod,) = servers(HOST)
    pod.containers[0]["resources"]["limits"]["nvidia.com/gpu"] = 4
    assert value(run_member(pod, 1, nodes).plan["argv"], "--tp-size") == "8"


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_device_list_of_prefill_and_decode(role: str, index: int, nodes: dict[str, Node]) -> None:
    """The list that SGLang's examples write by hand is the used devices of this very pod."""
    (pod,) = [pod for pod in servers(PREFILL_DECODE) if pod.owner["metadata"]["name"].endswith(role)]
    plan = run_member(pod, index, nodes).plan
    assert value(plan["argv"], "--disaggregation-mode") == role
    assert value(plan["argv"], "--disaggregation-ib-device") == ",".join(nodes["host"].devices)


def _preflight(variant: str, nodes: dict[str, Node], **changed: object) -> tuple[str, list[str], dict[str, str]]:
    """Place the preflight's pod on its node; return the node's folder, the arguments, the environment."""
    (pod,) = pod_templates(built(K8S / variant))
    node = node_of(pod, nodes)
    node.place(pod, "none", 0, resolve={}, routes={}, **changed)
    environment = container_environment(pod, pod.containers[0], {})
    return str(node.folder), container_arguments(pod.containers[0], environment), environment


@pytest.mark.parametrize("variant", PREFLIGHTS)
def test_preflight_passes_and_refuses(variant: str, nodes: dict[str, Node]) -> None:
    passed = launcher(*_preflight(variant, nodes))
    assert passed.code == 0, passed.stdout + passed.stderr
    refused = launcher(*_preflight(variant, nodes, verbs={}))
    assert refused.code == 69, refused.stdout + refused.stderr


@pytest.mark.parametrize("variant", PREFLIGHTS)
def test_preflight_s_verdict_is_the_launch_s(variant: str, nodes: dict[str, Node]) -> None:
    """The settings beside ``--check`` make a launch of this pod insist on RDMA, without a group."""
    for changed, code in (({}, 0), ({"verbs": {}}, 69), ({"capabilities": []}, 69)):
        folder, arguments, environment = _preflight(variant, nodes, **changed)
        assert arguments.pop() == "--check"
        outcome = launcher(folder, arguments, environment, "--dry-run=json")
        assert outcome.code == outcome.plan["exit_code"] == code
        assert outcome.plan["argv"] is None
        assert outcome.plan["wait"] is None


@pytest.mark.parametrize("variant", REHEARSALS)
def test_every_member_of_a_rehearsal(variant: str, nodes: dict[str, Node]) -> None:
    """Each pod finds its place in the group and passes alone; the leader's name is one that its Service gives."""
    (pod,) = pod_templates(built(K8S / variant))
    node, size = node_of(pod, nodes), 2
    name = pod.owner["metadata"]["name"]
    for index in range(size):
        group = pod.kind == "LeaderWorkerSet"
        injected = lws_variables(pod.owner, 0, index) if group else {}
        environment = container_environment(pod, pod.containers[0], injected, index)
        leader = f"{name}-0.{name}.inference" if group else f"{name}-0.{pod.spec['subdomain']}"
        node.place(pod, leader, index)
        arguments = container_arguments(pod.containers[0], environment)
        assert arguments.pop(0) == "--rehearse"
        outcome = launcher(str(node.folder), arguments, environment, "--dry-run=json")
        assert outcome.code == 0, outcome.stderr
        source = "LWS_*" if group else "settings"
        assert outcome.plan["identity"] == {"leader": leader, "size": size, "index": index, "source": source}
        assert [one["code"] for one in outcome.plan["problems"] if one["severity"] == "error"] == []
        assert environment.get("POD_NAME") == (None if group else f"{name}-{index}")


def test_router_runs_as_it_is_written(nodes: dict[str, Node]) -> None:
    pod = router()
    environment = container_environment(pod, pod.containers[0], {})
    arguments = container_arguments(pod.containers[0], environment)
    assert "inference" in arguments
    node = nodes["functions"]
    node.place(pod, "none", 0, resolve={}, routes={})
    outcome = launcher(str(node.folder), arguments, environment, "--dry-run=json")
    assert outcome.code == 0, outcome.stderr
    words = arguments[arguments.index("python3") :]
    assert outcome.plan["argv"] == ["python3", f"({len(words) - 1} arguments, not shown)"]


def test_router_arguments_are_the_router_s() -> None:
    """The released router's own parser reads them; service discovery is what they say."""
    if find_spec("sglang_router") is None:
        skip_or_fail("manifests", "the router's arguments need the Python package sglang-router")
    parser = import_module("sglang_router.launch_router").parse_router_args
    arguments = container_arguments(router().containers[0], {"POD_NAMESPACE": "inference"})
    start = arguments.index("sglang_router.launch_router") + 1
    parsed = parser(arguments[start:])
    leaders = {"app.kubernetes.io/name": "sglang", "leaderworkerset.sigs.k8s.io/worker-index": "0"}
    assert parsed.pd_disaggregation
    assert parsed.service_discovery
    assert parsed.service_discovery_namespace == "inference"
    assert parsed.service_discovery_port == 8100
    assert parsed.prefill_selector == {**leaders, "app.kubernetes.io/component": "prefill"}
    assert parsed.decode_selector == {**leaders, "app.kubernetes.io/component": "decode"}
    assert parsed.bootstrap_port_annotation == "sglang.ai/bootstrap-port"


def test_variants_are_all_looked_at() -> None:
    members: list[Manifest] = [m for v in variants() for m in built(K8S / v)]
    assert {m["kind"] for m in members} >= {"LeaderWorkerSet", "Job", "Deployment", "Service"}
    assert len(variants()) == len(SERVING) + len(PREFLIGHTS) + len(REHEARSALS) == 21
