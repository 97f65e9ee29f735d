"""The pods of the shipped manifests, as groups of containers: what applies also starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.container.pod_spec import container_options
from tests.container.pods import Pod, events, values
from tests.layers import skip_or_fail
from tests.manifests.kubectl import kubectl, kustomize
from tests.sources import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.container.enclosure import Container, Enclosure

pytestmark = pytest.mark.container

MANIFESTS = CHECKOUT / "k8s"
VARIANTS = sorted(
    str(path.parent.relative_to(MANIFESTS))
    for path in MANIFESTS.glob("**/kustomization.yaml")
    if "components" not in path.parts
)
#: Their pods get names, indices or variables from a controller that is not played here: tests/manifests runs them as
#: it would.
OF_OTHER_CONTROLLERS = {
    *(f"rehearsal/{kind}" for kind in ("dra", "privileged", "shared-device-plugin", "sriov")),
    "prefill-decode/disaggregated-set",
}
#: Their nodes have other hardware than the containers' (AMD's GPUs, NVLink between nodes): recorded in tests/manifests.
OF_OTHER_HARDWARE = {"roce-hostnetwork/amd", "dra/compute-domain"}


@dataclass(frozen=True)
class Group:
    """What a LeaderWorkerSet of a manifest says about its pods."""

    name: str
    size: int
    leader: dict[str, Any]
    worker: dict[str, Any]

    @property
    def leader_address(self) -> str:
        """Return what LWS injects as the leader's address: pod, headless Service, namespace."""
        return f"{self.name}-0.{self.name}.default"


def _documents(variant: str) -> list[dict[str, Any]]:
    missing = kubectl().missing
    if missing:
        skip_or_fail("container", missing)
    done = kustomize(MANIFESTS / variant)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _groups(documents: list[dict[str, Any]]) -> list[Group]:
    groups = []
    for document in documents:
        if document["kind"] == "LeaderWorkerSet":
            template = document["spec"]["leaderWorkerTemplate"]
            worker = template["workerTemplate"]["spec"]
            leader = template.get("leaderTemplate", {}).get("spec", worker)
            groups.append(Group(document["metadata"]["name"], template["size"], leader, worker))
    return groups


def _pod(group: Group, index: int, folder: Path, enclosure: Enclosure) -> tuple[Any, Any]:
    pod = Pod(folder / f"{group.name}-{index}", index, group.size)
    pod.folder.mkdir()
    spec = group.worker if index else group.leader
    options, arguments = container_options(spec, pod, enclosure)
    injected = {
        "LWS_LEADER_ADDRESS": group.leader_address,
        "LWS_GROUP_SIZE": group.size,
        "LWS_WORKER_INDEX": index,
    }
    return (*options, *(f"--env={name}={value}" for name, value in injected.items())), arguments


def _has_ipc_lock(spec: dict[str, Any]) -> bool:
    context = spec["containers"][0]["securityContext"]
    added = context.get("capabilities", {}).get("add", ())
    return bool(context.get("privileged")) or "IPC_LOCK" in added


@pytest.mark.parametrize("variant", sorted({*VARIANTS} - OF_OTHER_CONTROLLERS - OF_OTHER_HARDWARE))
def test_the_pods_of_a_manifest_start(networks: Enclosure, image: str, tmp_path: Path, variant: str) -> None:
    documents = _documents(variant)
    groups = _groups(documents)
    jobs = [document for document in documents if document["kind"] == "Job"]
    assert groups or jobs
    for group in groups:
        if _has_ipc_lock(group.worker):
            _run_group(group, networks, image, tmp_path)
        else:
            _dry_run_without_memlock(group, networks, image, tmp_path)
    for job in jobs:
        spec = job["spec"]["template"]["spec"]
        options, arguments = container_options(spec, Pod(tmp_path), networks)
        mode = "--env=STAND_IN_MODE=exit"  # if SGLang should be started by mistake
        done = networks.run_container(image, arguments, *options, mode)
        assert done.code == 0, done.log
        assert events(done.out) == {}
        assert "mlx5_0" in done.out
        # It is no check unless a node without the devices fails it.
        without = [option for option in options if "/dev/infiniband" not in option]
        refused = networks.run_container(image, arguments, *without, mode)
        assert refused.code == 69, refused.log


def _run_group(group: Group, networks: Enclosure, image: str, folder: Path) -> None:
    containers: list[Container] = []
    arguments: tuple[str, ...] = ()
    networks.publish(f"{group.name}-0.{group.name}", "10.89.9.100")
    try:
        for index in range(group.size):
            options, arguments = _pod(group, index, folder, networks)
            containers.append(networks.start(image, arguments, *options))
        for index, container in enumerate(containers):
            if arguments[0] == "--rehearse":
                assert "2 of 2 nodes" in container.wait_for("The group would start.")
                continue
            started = events(container.wait_for('"serving"'))["started"]
            given = values(started["argv"])
            assert given["--nnodes"] == str(group.size)
            assert given["--node-rank"] == str(index)
            assert given["--dist-init-addr"].startswith(f"{group.leader_address}:")
            assert given["--tp-size"] == str(8 * group.size)
            assert given["--host"] == "0.0.0.0"
            assert started["environment"]["NCCL_IB_HCA"] == "=mlx5_0:1"
            if "--disaggregation-mode" in given:
                assert given["--disaggregation-ib-device"] == "mlx5_0"
        if arguments[0] == "--rehearse":
            return
        workers = events(containers[0].log())["group complete"]["ranks"]
        assert workers == list(range(1, group.size))
    finally:
        for container in containers:
            container.remove()


def _dry_run_without_memlock(group: Group, networks: Enclosure, image: str, folder: Path) -> None:
    """Nothing but the memlock that the node must provide is missing."""
    options, arguments = _pod(group, 1, folder, networks)
    limits = tuple(f"--ulimit={limit}" for limit in (*networks.ulimits, "memlock=65536:65536"))
    done = networks.run_container(image, ["--dry-run=json", *arguments], *options, *limits)
    plan = json.loads(done.out)
    errors = [problem for problem in plan["problems"] if problem["severity"] == "error"]
    assert len(errors) == 1, errors
    assert "memlock" in errors[0]["message"]
    assert done.code == plan["exit_code"] == 69
