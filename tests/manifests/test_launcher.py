"""What the launcher makes of every pod: the real program, a recorded node, exactly the pod's args.

LeaderWorkerSet's variables and the GPU plugin's come from ``injection``. The recorded nodes are the
two that the package carries: the host network of a node, and the pod network with an SR-IOV function.
What a pod specification decides is written into the recording: whether the verbs devices open, who the
user is, whether IPC_LOCK is effective, what the leader's name resolves to.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import sglang_roce_entry
from tests.layers import skip_or_fail
from tests.manifests.injection import (
    container_arguments,
    container_environment,
    gpu_count,
    lws_variables,
)
from tests.manifests.manifest_set import (
    K8S,
    Manifest,
    PodTemplate,
    built,
    pod_templates,
    serving_templates,
    variants,
)

SNAPSHOTS = Path(sglang_roce_entry.__file__).parent / "snapshots"
ROOT = Path(sglang_roce_entry.__file__).parents[1]
HOST, RESTRICTED = "roce-hostnetwork/shared-device-plugin", "roce-sriov/restricted"
PREFILL_DECODE = "prefill-decode/shared-device-plugin"
CONTAINERD_MEMLOCK_BYTES = 8 << 20  # what systemd gives a container runtime whose unit says nothing


@dataclass
class Node:
    """A recorded node, unpacked once, whose facts are written anew for every pod."""

    folder: Path
    recorded: dict[str, Any]
    control_address: str
    peer_address: str
    interface: str

    def place(self, pod: PodTemplate, leader: str, index: int, **changed: Any) -> None:
        """Write the facts of ``pod`` on this node; ``changed`` replaces some of them."""
        container = pod.containers[0]
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        root = context.get("runAsUser", 0) == 0
        locks = root and (
            context.get("privileged", False) or "IPC_LOCK" in context.get("capabilities", {}).get("add", [])
        )
        address = self.control_address if index == 0 else self.peer_address
        facts = {
            **self.recorded,
            "environ": {},
            "uid": context.get("runAsUser", 0),
            "capabilities": ["CAP_IPC_LOCK"] if locks else [],
            # restricted: what its comment asks of the node
            "memlock": CONTAINERD_MEMLOCK_BYTES if root else "unlimited",
            "resolve": {leader: [address]},
            "routes": {address: {"interface": self.interface, "source": self.control_address}},
            **changed,
        }
        if not grants_rdma(pod):
            facts["verbs"] = dict.fromkeys(self.recorded["verbs"], "ENOENT")
        (self.folder / "facts.json").write_text(json.dumps(facts))


def grants_rdma(pod: PodTemplate) -> bool:
    """Return whether something in the pod makes ``/dev/infiniband/uverbs*`` open."""
    container = pod.containers[0]
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    return bool(
        container.get("securityContext", {}).get("privileged")
        or any(name.startswith("rdma/") or "_vf" in name for name in limits)
        or resources.get("claims")
    )


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Node]:
    """Return the two recorded nodes of the package, by name."""
    known = {
        "h20-roce": ("10.0.0.11", "10.0.0.10", "eth0"),
        "cx7-pod": ("10.244.2.23", "10.244.1.17", "eth0"),
    }
    unpacked = {}
    for name, (own, peer, interface) in known.items():
        folder = tmp_path_factory.mktemp(name)
        with tarfile.open(SNAPSHOTS / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        (facts,) = folder.rglob("facts.json")
        unpacked[name] = Node(facts.parent, json.loads(facts.read_text()), own, peer, interface)
    return unpacked


@functools.cache
def _lacks(what: str) -> bool:
    """Return whether the launcher under test cannot do ``what`` yet."""
    if what == "--check":
        return "--check" not in launcher("h20-roce", [], {}, "--help").stdout
    arguments = ["--model-path", "m", "--disaggregation-mode", "decode"]
    outcome = launcher("h20-roce", arguments, {}, "--dry-run=json")
    return what not in outcome.plan["argv"]


def expected_to_fail_without(request: pytest.FixtureRequest, what: str) -> None:
    """Mark the test as failing, strictly, while the launcher lacks what the manifests count on."""
    if _lacks(what):
        request.applymarker(pytest.mark.xfail(reason=f"this launcher has no {what} yet", strict=True))


def node_of(pod: PodTemplate, nodes: dict[str, Node]) -> Node:
    """Return the recorded node that fits the pod's network."""
    return nodes["h20-roce" if pod.spec.get("hostNetwork") else "cx7-pod"]


@dataclass
class Outcome:
    """What one run of the launcher said."""

    code: int
    stdout: str
    stderr: str
    plan: dict[str, Any] = field(default_factory=dict)


def launcher(snapshot: str, arguments: list[str], environment: dict[str, str], *mode: str) -> Outcome:
    """Run the launcher as the container would, on a recorded node."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", "--snapshot", snapshot, *mode, *arguments],
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    if mode == ("--dry-run=json",) and done.stdout:
        outcome.plan = json.loads(done.stdout)
    return outcome


def run_member(pod: PodTemplate, index: int, nodes: dict[str, Node], **changed: Any) -> Outcome:
    """Run the launcher as pod ``index`` of the first group."""
    node = node_of(pod, nodes)
    injected = lws_variables(pod.owner, 0, index)
    node.place(pod, injected["LWS_LEADER_ADDRESS"], index, **changed)
    environment = container_environment(pod, pod.containers[0], injected)
    arguments = container_arguments(pod.containers[0], environment)
    return launcher(str(node.folder), arguments, environment, "--dry-run=json")


def _value(argv: list[str], option: str) -> str:
    assert argv.count(option) == 1, argv
    return argv[argv.index(option) + 1]


def _members() -> list[Any]:
    found = []
    for variant in variants():
        if variant.startswith("preflight"):
            continue
        roles = ("prefill", "decode") if variant.startswith("prefill-decode") else (None,)
        for role in roles:
            for index in (0, 1):
                found.append(pytest.param(variant, role, index, id=f"{variant}-{role or 'all'}-{index}"))
    return found


def _pod(variant: str, role: str | None) -> PodTemplate:
    pods = serving_templates(built(K8S / variant))
    (pod,) = [p for p in pods if role is None or p.owner["metadata"]["name"].endswith(role)]
    return pod


@pytest.mark.parametrize(("variant", "role", "index"), _members())
def test_member_of_the_group(variant: str, role: str | None, index: int, nodes: dict[str, Node]) -> None:
    pod = _pod(variant, role)
    size = pod.owner["spec"]["leaderWorkerTemplate"]["size"]
    name = pod.owner["metadata"]["name"]
    leader = f"{name}-0.{name}.inference"
    outcome = run_member(pod, index, nodes)
    plan = outcome.plan
    assert (outcome.code, plan["exit_code"]) == (0, 0), outcome.stderr
    assert [problem for problem in plan["problems"] if problem["severity"] == "error"] == []
    assert plan["identity"] == {"leader": leader, "size": size, "index": index, "source": "LWS_*"}

    argv = plan["argv"]
    assert argv[1:3] == ["-m", "sglang.launch_server"]
    assert _value(argv, "--nnodes") == str(size)
    assert _value(argv, "--node-rank") == str(index)
    assert _value(argv, "--dist-init-addr") == f"{leader}:20000"
    assert _value(argv, "--tp-size") == str(gpu_count(pod.containers[0]) * size) == "16"
    assert _value(argv, "--host") == "0.0.0.0"
    given = pod.containers[0]["args"]
    assert argv[-len(given) :] == given

    wait = plan["wait"]
    assert wait["host"] == leader
    if index == 0:
        assert (wait["for"], wait["ports"]) == ("own_name", [])
    else:
        assert (wait["for"], wait["ports"]) == ("leader", [20000, 20001, 20013])
    # The startup probe's budget counts on these.
    assert wait["deadline_s"] == 1800.0

    used = [port["device"] for port in plan["ports"] if port["used"]]
    assert used != []
    environment = plan["environment"]
    assert environment["NCCL_IB_HCA"]["value"] == "=" + ",".join(f"{device}:1" for device in used)
    assert environment["NCCL_SOCKET_IFNAME"]["value"] == "=eth0"
    assert environment["SGLANG_HOST_IP"]["value"] == node_of(pod, nodes).control_address


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_device_list_of_prefill_and_decode(
    role: str, index: int, nodes: dict[str, Node], request: pytest.FixtureRequest
) -> None:
    """The list that SGLang's examples write by hand is the used devices of this very pod."""
    expected_to_fail_without(request, "--disaggregation-ib-device")
    plan = run_member(_pod(PREFILL_DECODE, role), index, nodes).plan
    used = [port["device"] for port in plan["ports"] if port["used"]]
    assert used == ["mlx5_bond_0", "mlx5_bond_1", "mlx5_bond_2", "mlx5_bond_3"]
    assert _value(plan["argv"], "--disaggregation-mode") == role
    assert _value(plan["argv"], "--disaggregation-ib-device") == ",".join(used)


@pytest.mark.parametrize("variant", [v for v in variants() if v.startswith("preflight")])
def test_preflight_passes_and_refuses(
    variant: str, nodes: dict[str, Node], request: pytest.FixtureRequest
) -> None:
    expected_to_fail_without(request, "--check")
    (pod,) = pod_templates(built(K8S / variant))
    node = node_of(pod, nodes)
    container = pod.containers[0]
    environment = container_environment(pod, container, {})
    arguments = container_arguments(container, environment)
    assert "--check" in arguments
    node.place(pod, "none", 0, resolve={}, routes={})
    passed = launcher(str(node.folder), arguments, environment)
    assert passed.code == 0, passed.stderr
    node.place(pod, "none", 0, resolve={}, routes={}, verbs={})
    refused = launcher(str(node.folder), arguments, environment)
    assert refused.code == 69, refused.stdout


def test_router_runs_as_it_is_written(nodes: dict[str, Node]) -> None:
    pods = pod_templates(built(K8S / PREFILL_DECODE))
    (pod,) = [pod for pod in pods if pod.kind == "Deployment"]
    environment = container_environment(pod, pod.containers[0], {})
    arguments = container_arguments(pod.containers[0], environment)
    assert "inference" in arguments
    node = nodes["cx7-pod"]
    node.place(pod, "none", 0, resolve={}, routes={})
    outcome = launcher(str(node.folder), arguments, environment, "--dry-run=json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.plan["argv"] == arguments[arguments.index("python3") :]


def test_router_arguments_are_the_router_s(nodes: dict[str, Node]) -> None:
    """The released router's own parser reads them; service discovery is what they say."""
    if find_spec("sglang_router") is None:
        skip_or_fail("manifests", "the router's arguments need the Python package sglang-router")
    parser = import_module("sglang_router.launch_router").parse_router_args
    pods = pod_templates(built(K8S / PREFILL_DECODE))
    (pod,) = [pod for pod in pods if pod.kind == "Deployment"]
    arguments = container_arguments(pod.containers[0], {"POD_NAMESPACE": "inference"})
    start = arguments.index("sglang_router.launch_router") + 1
    parsed = parser(arguments[start:])
    leaders = {"app.kubernetes.io/name": "sglang", "leaderworkerset.sigs.k8s.io/worker-index": "0"}
    assert parsed.pd_disaggregation
    assert parsed.service_discovery
    assert parsed.service_discovery_namespace == "inference"
    assert parsed.service_discovery_port == 40000
    assert parsed.prefill_selector == {**leaders, "app.kubernetes.io/component": "prefill"}
    assert parsed.decode_selector == {**leaders, "app.kubernetes.io/component": "decode"}
    assert parsed.bootstrap_port_annotation == "sglang.ai/bootstrap-port"


def test_packaged_node_as_it_is() -> None:
    """The recording by its name, the pod's variables over the recorded ones."""
    pod = _pod(HOST, None)
    for index in (0, 1):
        environment = container_environment(pod, pod.containers[0], {**lws_variables(pod.owner, 0, index)})
        outcome = launcher("h20-roce", pod.containers[0]["args"], environment, "--dry-run=json")
        assert outcome.code == 0
        assert _value(outcome.plan["argv"], "--node-rank") == str(index)


# ---- what goes wrong in a manifest, and that the launcher says it --------------------------------


def test_index_of_an_old_lws_is_missing(nodes: dict[str, Node]) -> None:
    """LeaderWorkerSet up to 0.5 injects no index: half an identity, not rank 0."""
    pod = _pod(HOST, None)
    injected = lws_variables(pod.owner, 0, 1)
    del injected["LWS_WORKER_INDEX"]
    node = node_of(pod, nodes)
    node.place(pod, injected["LWS_LEADER_ADDRESS"], 1)
    environment = container_environment(pod, pod.containers[0], injected)
    outcome = launcher(str(node.folder), pod.containers[0]["args"], environment, "--dry-run=json")
    assert outcome.code == 78


def test_pod_without_rdma_resource_is_refused(nodes: dict[str, Node]) -> None:
    pod = _pod(HOST, None)
    del pod.containers[0]["resources"]["limits"]["rdma/hca_shared_devices_a"]
    outcome = run_member(pod, 1, nodes)
    assert outcome.code == 69
    assert {port["reason"] for port in outcome.plan["ports"]} == {"NO_VERBS"}


def test_restricted_needs_the_node_s_memlock(nodes: dict[str, Node]) -> None:
    pod = _pod(RESTRICTED, None)
    assert run_member(pod, 1, nodes).code == 0
    assert run_member(pod, 1, nodes, memlock=CONTAINERD_MEMLOCK_BYTES).code == 69


def test_dropping_ipc_lock_for_root_is_refused(nodes: dict[str, Node]) -> None:
    pod = _pod(HOST, None)
    del pod.containers[0]["securityContext"]["capabilities"]["add"]
    assert run_member(pod, 0, nodes).code == 69


def test_guide_s_arguments_are_taken_over(nodes: dict[str, Node]) -> None:
    """Who moves the guide's argument list over as it is gets the same plan, nothing twice."""
    pod = _pod(HOST, None)
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


def test_whole_command_in_args_is_run_as_it_is(nodes: dict[str, Node]) -> None:
    """The README's warning: ``python3 -m sglang.launch_server`` in args is a bare command."""
    pod = _pod(HOST, None)
    pod.containers[0]["args"] = ["python3", "-m", "sglang.launch_server", *pod.containers[0]["args"]]
    outcome = run_member(pod, 1, nodes)
    assert outcome.plan["argv"] == pod.containers[0]["args"]
    assert outcome.plan["environment"]["NCCL_IB_HCA"]["value"].startswith("=mlx5_bond_0:1")


def test_variants_are_all_looked_at() -> None:
    members: list[Manifest] = [m for v in variants() for m in built(K8S / v)]
    assert {m["kind"] for m in members} >= {"LeaderWorkerSet", "Job", "Deployment", "Service"}
    assert len(variants()) == 12
