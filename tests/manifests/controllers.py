"""The pods that other controllers than LeaderWorkerSet make of ``k8s/other-controllers``, with what each adds to them.

Names and order are those of the controllers' source: what is put before the container's own ``env`` can be referred to
in it, what is put behind it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.manifests.injection import NAMESPACE, expand, plugin_variables
from tests.manifests.manifest_set import K8S, Manifest, PodTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FOLDER = K8S / "other-controllers"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


@dataclass(frozen=True)
class Member:
    """One pod of a group: ``before`` and ``after`` the container's own variables stand the controller's."""

    pod: PodTemplate
    index: int
    leader: str
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the container's environment, as the kubelet expands it."""
        container = self.pod.containers[0]
        found = dict(self.before)
        for entry in container.get("env", []):
            if "valueFrom" in entry:
                path = entry["valueFrom"]["fieldRef"]["fieldPath"]
                found[entry["name"]] = self.fields.get(path, "")  # a missing key is the empty string
            else:
                found[entry["name"]] = expand(entry["value"], found)
        # On the host network the name is the node's.
        return {**found, **self.after, "HOSTNAME": "gpu-7", **plugin_variables(container)}


def manifests() -> list[Path]:
    """Return the files."""
    return sorted(FOLDER.glob("*.yaml"))


def _template(owner: Manifest, template: Manifest) -> PodTemplate:
    return PodTemplate(owner, template.get("metadata", {}), template["spec"])


def _role_based_group(group: Manifest, _all: list[Manifest]) -> Iterator[Member]:
    """Put first, a label each (sgl-project/rbg 0.7, ``pkg/discovery/env_builder.go``)."""
    name = group["metadata"]["name"]
    (role,) = group["spec"]["roles"]
    instance, pattern = f"{name}-{role['name']}-0", role["leaderWorkerPattern"]
    leader = f"{instance}-0.s-{name}-{role['name']}.{NAMESPACE}"
    for index in range(pattern["size"]):
        before = {
            "RBG_GROUP_NAME": name,
            "RBG_ROLE_NAME": role["name"],
            "RBG_ROLE_INDEX": "0",
            "RBG_ROLE_INSTANCE_NAME": instance,
            "RBG_COMPONENT_NAME": "worker" if index else "leader",
            "RBG_COMPONENT_INDEX": str(max(index - 1, 0)),
            "RBG_LWP_LEADER_ADDRESS": leader,
            "RBG_LWP_WORKER_INDEX": str(index),
            "RBG_LWP_GROUP_SIZE": str(pattern["size"]),
        }
        yield Member(_template(group, pattern["template"]), index, leader, before)


def _of_job(owner: Manifest, job: Manifest, leader: str) -> Iterator[Member]:
    """Put behind (kubernetes/kubernetes ``pkg/controller/job/indexed_job_utils.go``), and annotated."""
    for index in range(job["completions"]):
        after = {"JOB_COMPLETION_INDEX": str(index)}
        yield Member(_template(owner, job["template"]), index, leader, after=after, fields={INDEX: str(index)})


def _job(job: Manifest, _all: list[Manifest]) -> Iterator[Member]:
    leader = f"{job['metadata']['name']}-0.{job['spec']['template']['spec']['subdomain']}"
    return _of_job(job, job["spec"], leader)


def _jobset(jobset: Manifest, _all: list[Manifest]) -> Iterator[Member]:
    """Its Service has its name, pods are ``<set>-<job>-<replica>-<index>`` (kubernetes-sigs/jobset v0.12)."""
    name = jobset["metadata"]["name"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1  # else the index repeats
    return _of_job(jobset, replicated["template"]["spec"], f"{name}-{replicated['name']}-0-0.{name}")


def _stateful_set(owner: Manifest, _all: list[Manifest]) -> Iterator[Member]:
    spec, name = owner["spec"], owner["metadata"]["name"]
    for index in range(spec["replicas"]):
        fields = {"metadata.labels['apps.kubernetes.io/pod-index']": str(index)}
        yield Member(_template(owner, spec["template"]), index, f"{name}-0.{spec['serviceName']}", fields=fields)


def _train_job(job: Manifest, everything: list[Manifest]) -> Iterator[Member]:
    """Put behind, in the container ``node`` (kubeflow/trainer v2.3 ``pkg/runtime/framework/plugins/torch/torch.go``)."""
    (runtime,) = [one for one in everything if one["kind"] == job["spec"]["runtimeRef"]["kind"]]
    assert runtime["metadata"]["name"] == job["spec"]["runtimeRef"]["name"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = _template(runtime, replicated["template"]["spec"]["template"])
    assert replicated["name"] == pod.containers[0]["name"] == "node"
    name, nodes = job["metadata"]["name"], runtime["spec"]["mlPolicy"]["numNodes"]
    for index in range(nodes):
        after = {
            "PET_NNODES": str(nodes),
            "PET_NPROC_PER_NODE": "8",
            "PET_NODE_RANK": str(index),
            "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
            "PET_MASTER_PORT": "29400",
            "JOB_COMPLETION_INDEX": str(index),
        }
        yield Member(pod, index, after["PET_MASTER_ADDR"], after=after)


def _volcano(job: Manifest, _all: list[Manifest]) -> Iterator[Member]:
    """Put behind (volcano-sh/volcano v1.15 ``pkg/controllers/job/plugins``, ``env`` and ``svc``)."""
    name = job["metadata"]["name"]
    (task,) = job["spec"]["tasks"]
    assert set(job["spec"]["plugins"]) == {"env", "svc"}
    hosts = [f"{name}-{task['name']}-{index}.{name}" for index in range(task["replicas"])]
    for index in range(task["replicas"]):
        after = {
            f"VC_{task['name'].upper()}_HOSTS": ",".join(hosts),
            f"VC_{task['name'].upper()}_NUM": str(len(hosts)),
            "VC_TASK_INDEX": str(index),
            "VK_TASK_INDEX": str(index),
        }
        yield Member(_template(job, task["template"]), index, hosts[0], after=after)


def _grove(owner: Manifest, _all: list[Manifest]) -> Iterator[Member]:
    """Put behind until 2026-08 (ai-dynamo/grove ``docs/user-guide/03_environment-variables-for-pod-discovery``)."""
    name, whole = owner["metadata"]["name"], owner["spec"]["template"]
    (group,) = whole["podCliqueScalingGroups"]
    cliques = {clique["name"]: clique["spec"] for clique in whole["cliques"]}
    sizes = [cliques[clique]["replicas"] for clique in group["cliqueNames"]]
    scaling_group, service = f"{name}-0-{group['name']}", f"{name}-0.{NAMESPACE}.svc.cluster.local"
    leader = f"{scaling_group}-0-{group['cliqueNames'][0]}-0.{service}"
    rank = 0
    for clique in group["cliqueNames"]:
        for index in range(cliques[clique]["replicas"]):
            after = {
                "GROVE_PCS_NAME": name,
                "GROVE_PCS_INDEX": "0",
                "GROVE_PCLQ_NAME": f"{scaling_group}-0-{clique}",
                "GROVE_PCLQ_POD_INDEX": str(index),
                "GROVE_HEADLESS_SERVICE": service,
                "GROVE_PCSG_NAME": scaling_group,
                "GROVE_PCSG_INDEX": "0",
                "GROVE_PCSG_TEMPLATE_NUM_PODS": str(sum(sizes)),
            }
            # These two replace what a template says of them (operator/api/common/labels.go).
            labels = {"app.kubernetes.io/name": after["GROVE_PCLQ_NAME"], "app.kubernetes.io/part-of": name}
            template = {"metadata": {"labels": labels}, "spec": cliques[clique]["podSpec"]}
            yield Member(_template(owner, template), rank, leader, after=after)
            rank += 1


_MAKERS: dict[str, Callable[[Manifest, list[Manifest]], Iterator[Member]]] = {
    "workloads.x-k8s.io/v1alpha2/RoleBasedGroup": _role_based_group,
    "batch/v1/Job": _job,
    "jobset.x-k8s.io/v1alpha2/JobSet": _jobset,
    "apps/v1/StatefulSet": _stateful_set,
    "trainer.kubeflow.org/v1alpha1/TrainJob": _train_job,
    "batch.volcano.sh/v1alpha1/Job": _volcano,
    "grove.io/v1alpha1/PodCliqueSet": _grove,
}


def members(documents: list[Manifest]) -> list[Member]:
    """Return the pods of the group, the leader first."""
    kinds = ((f"{one['apiVersion']}/{one['kind']}", one) for one in documents)
    return [member for kind, one in kinds if kind in _MAKERS for member in _MAKERS[kind](one, documents)]
