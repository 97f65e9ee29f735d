"""What reaches a container of a group: LeaderWorkerSet's variables, the GPU plugin's, expansion."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.manifests.manifest_set import Manifest, PodTemplate

NAMESPACE = "inference"
# LeaderWorkerSet 0.6 and later put these before the user's own and drop user entries of these names.
LWS_VARIABLES = ("LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX")
GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu")

_REFERENCE = re.compile(r"\$(\$|\([^()]*\)|$|.)")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return ``text`` with ``$(NAME)`` replaced as the kubelet does it.

    ``$$`` is a dollar, an unknown name stays as it is written, any other ``$`` is kept:
    ``third_party/forked/golang/expansion`` in Kubernetes.
    """

    def replaced(match: re.Match[str]) -> str:
        operand = match.group(1)
        if operand == "$":
            return "$"
        if operand.startswith("(") and operand.endswith(")"):
            return variables.get(operand[1:-1], match.group(0))
        return match.group(0)

    return _REFERENCE.sub(replaced, text)


def lws_variables(leader_worker_set: Manifest, group: int, index: int) -> dict[str, str]:
    """Return what LeaderWorkerSet injects into pod ``index`` of ``group``."""
    name = leader_worker_set["metadata"]["name"]
    template = leader_worker_set["spec"]["leaderWorkerTemplate"]
    unique = leader_worker_set["spec"].get("networkConfig", {}).get("subdomainPolicy") == "UniquePerReplica"
    leader = f"{name}-{group}"
    return {
        "LWS_LEADER_ADDRESS": f"{leader}.{leader if unique else name}.{NAMESPACE}",
        "LWS_GROUP_SIZE": str(template.get("size", 1)),
        "LWS_WORKER_INDEX": str(index),
    }


def gpu_count(container: Mapping[str, Any]) -> int:
    """Return how many GPUs the container asks of its vendor's device plugin."""
    limits = container.get("resources", {}).get("limits", {})
    return sum(int(limits.get(name, 0)) for name in GPU_RESOURCES)


def plugin_variables(container: Mapping[str, Any]) -> dict[str, str]:
    """Return what NVIDIA's device plugin adds: the UUIDs of the granted GPUs. AMD's adds nothing."""
    count = int(container.get("resources", {}).get("limits", {}).get(GPU_RESOURCES[0], 0))
    uuids = [f"GPU-{number:08x}-0000-4000-8000-000000000000" for number in range(count)]
    return {"NVIDIA_VISIBLE_DEVICES": ",".join(uuids)} if count else {}


def container_environment(
    pod: PodTemplate, container: Mapping[str, Any], injected: Mapping[str, str], index: int = 0
) -> dict[str, str]:
    """Return the container's environment: injected entries first, then the user's, in order.

    ``index`` is that of an Indexed Job, whose controller labels and annotates the pod (``job_controller.go``).
    """
    owner = pod.owner["metadata"]["name"]
    fields = {
        "metadata.namespace": NAMESPACE,
        "metadata.name": f"{owner}-0",
        "metadata.labels['batch.kubernetes.io/job-name']": owner,
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index),
    }
    environment = dict(injected)
    for entry in container.get("env", []):
        if entry["name"] in injected and entry["name"] in LWS_VARIABLES:
            continue  # dropped by LeaderWorkerSet's webhook
        if "valueFrom" in entry:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            environment[entry["name"]] = fields.get(path, "")  # a missing key is the empty string
        else:
            environment[entry["name"]] = expand(entry.get("value", ""), environment)
    return {**environment, **plugin_variables(container)}


def container_arguments(container: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Return ``args`` as the process receives them."""
    return [expand(argument, environment) for argument in container.get("args", [])]
