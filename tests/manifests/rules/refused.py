"""What an API server refuses and no schema knows.

LeaderWorkerSet's webhook does not look into its pod templates: there such a fault shows as an event
``FailedCreate`` and no pod.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from tests.manifests.manifest_set import Manifest, pod_templates
from tests.manifests.rules.walk import Rule, containers, duplicates, of_kind, probes

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDLERS = frozenset({"exec", "httpGet", "tcpSocket", "grpc"})
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def volume_mounts_name_volumes(manifests: list[Manifest]) -> Iterator[str]:
    """Find volumeMounts without a volume of their name in the pod."""
    for pod, container in containers(manifests):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{pod.name}: no volume {mount['name']!r}"


def names_are_unique(manifests: list[Manifest]) -> Iterator[str]:
    """Objects, volumes, containers, ports and mount paths have one name each."""
    identities = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    for kind, name in duplicates(identities):
        yield f"{kind}/{name} twice"
    for pod in pod_templates(manifests):
        for volume in duplicates(volume["name"] for volume in pod.spec.get("volumes", [])):
            yield f"{pod.name}: volume {volume!r} twice"
        for name in duplicates(container["name"] for container in pod.containers):
            yield f"{pod.name}: container {name!r} twice"
    for pod, container in containers(manifests):
        for name in duplicates(port.get("name") for port in container.get("ports", [])):
            yield f"{pod.name}: port {name!r} twice"
        for path in duplicates(mount["mountPath"] for mount in container.get("volumeMounts", [])):
            yield f"{pod.name}: two volumes on {path}"


def object_names_are_dns_labels(manifests: list[Manifest]) -> Iterator[str]:
    """Names become host names: DNS-1035 labels, as the webhook of LeaderWorkerSet asks."""
    for manifest in manifests:
        if not DNS_LABEL.fullmatch(manifest["metadata"]["name"]):
            yield f"{manifest['kind']}/{manifest['metadata']['name']} is no DNS label"


def environment_names_are_set(manifests: list[Manifest]) -> Iterator[str]:
    """Find environment variables without a name, or with ``=`` in it."""
    for pod, container in containers(manifests):
        for entry in container.get("env", []):
            if not entry.get("name") or "=" in entry["name"]:
                yield f"{pod.name}: environment name {entry.get('name')!r}"


def labels_are_labels(manifests: list[Manifest]) -> Iterator[str]:
    """Find label values that are no texts of at most 63 letters, digits, ``-``, ``_`` and ``.``."""
    objects = [manifest["metadata"] for manifest in manifests]
    pods = [pod.metadata for pod in pod_templates(manifests)]
    for metadata in [*objects, *pods]:
        for name, value in metadata.get("labels", {}).items():
            if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                yield f"label {name}: {value!r}"


def port_names_are_short(manifests: list[Manifest]) -> Iterator[str]:
    """Find port names that are not 15 lower-case letters, digits and single dashes at most."""
    for pod, container in containers(manifests):
        for name in (port["name"] for port in container.get("ports", []) if "name" in port):
            if not PORT_NAME.fullmatch(name):
                yield f"{pod.name}: port name {name!r}"


def extended_resources_are_whole_limits(manifests: list[Manifest]) -> Iterator[str]:
    """Find extended resources that are no whole numbers, not in limits, or requested differently."""
    for pod, container in containers(manifests):
        resources = container.get("resources", {})
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        for name in sorted({name for name in {**limits, **requests} if "/" in name}):
            if name not in limits:
                yield f"{pod.name}: {name} has a request but no limit"
            elif not re.fullmatch(r"[1-9]\d*", str(limits[name])):
                yield f"{pod.name}: {name}: {limits[name]!r} is no whole number"
            elif str(requests.get(name, limits[name])) != str(limits[name]):
                yield f"{pod.name}: {name}: request and limit differ"


def probes_have_one_handler(manifests: list[Manifest]) -> Iterator[str]:
    """Find probes without exactly one of exec, httpGet, tcpSocket, grpc."""
    for pod, _container, kind, probe in probes(manifests):
        if len(HANDLERS & set(probe)) != 1:
            yield f"{pod.name}: {kind} has the handlers {sorted(HANDLERS & set(probe))}"


def host_network_ports_are_equal(manifests: list[Manifest]) -> Iterator[str]:
    """On the host network a hostPort, where given, is the containerPort; no two ports are equal."""
    for pod in pod_templates(manifests):
        ports = list(chain.from_iterable(container.get("ports", []) for container in pod.containers))
        for port in ports if pod.spec.get("hostNetwork") else []:
            if port.get("hostPort", port["containerPort"]) != port["containerPort"]:
                yield f"{pod.name}: hostPort {port['hostPort']} is not {port['containerPort']}"
        for number in duplicates(port["containerPort"] for port in ports):
            yield f"{pod.name}: port {number} twice"


def pod_restart_policy_fits(manifests: list[Manifest]) -> Iterator[str]:
    """StatefulSets and Deployments restart always; a Job never does, or on failure."""
    for pod in pod_templates(manifests):
        policy = pod.spec.get("restartPolicy", "Always")
        allowed = {"Never", "OnFailure"} if pod.kind == "Job" else {"Always"}
        if policy not in allowed:
            yield f"{pod.name}: restartPolicy {policy}"


def privileged_may_escalate(manifests: list[Manifest]) -> Iterator[str]:
    """``privileged`` and ``allowPrivilegeEscalation: false`` exclude each other."""
    for pod, container in containers(manifests):
        context = container.get("securityContext", {})
        if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
            yield f"{pod.name}: privileged without privilege escalation"


def process_namespace_is_one(manifests: list[Manifest]) -> Iterator[str]:
    """``shareProcessNamespace`` and ``hostPID`` exclude each other."""
    for pod in pod_templates(manifests):
        if pod.spec.get("shareProcessNamespace") and pod.spec.get("hostPID"):
            yield f"{pod.name}: shareProcessNamespace with hostPID"


def claims_are_declared(manifests: list[Manifest]) -> Iterator[str]:
    """Find claims that the pod does not declare, or that have no template in the variant."""
    templates = {m["metadata"]["name"] for m in of_kind(manifests, "ResourceClaimTemplate")}
    channels = (domain["spec"]["channel"] for domain in of_kind(manifests, "ComputeDomain"))
    templates |= {channel["resourceClaimTemplate"]["name"] for channel in channels}  # its driver makes it
    for pod, container in containers(manifests):
        declared = {claim["name"]: claim for claim in pod.spec.get("resourceClaims", [])}
        for claim in container.get("resources", {}).get("claims", []):
            if claim["name"] not in declared:
                yield f"{pod.name}: claim {claim['name']!r} is not the pod's"
        for claim in declared.values():
            if claim.get("resourceClaimTemplateName") not in templates:
                yield f"{pod.name}: no ResourceClaimTemplate for claim {claim['name']!r}"


def deployment_selects_its_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Find Deployments whose selector does not match their template's labels."""
    for pod in pod_templates(manifests):
        if pod.kind == "Deployment":
            wanted = pod.owner["spec"]["selector"]["matchLabels"].items()
            if not wanted <= pod.labels.items():
                yield f"{pod.name}: the selector does not match the template"


def rollout_can_move(manifests: list[Manifest]) -> Iterator[str]:
    """``maxSurge`` and ``maxUnavailable`` are not both zero."""
    for group in of_kind(manifests, "LeaderWorkerSet"):
        rolling = group["spec"].get("rolloutStrategy", {}).get("rollingUpdateConfiguration", {})
        moves = (rolling.get("maxUnavailable", 1), rolling.get("maxSurge", 0))
        if {str(move).rstrip("%") for move in moves} == {"0"}:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: no room to roll"


def subgroups_divide_the_group(manifests: list[Manifest]) -> Iterator[str]:
    """``size`` or ``size - 1`` is a multiple of ``subGroupSize``."""
    for group in of_kind(manifests, "LeaderWorkerSet"):
        template = group["spec"]["leaderWorkerTemplate"]
        part, size = template.get("subGroupPolicy", {}).get("subGroupSize", 1), template.get("size", 1)
        if size % part and (size - 1) % part:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: {size} nodes in parts of {part}"


def indexed_backoff_fits(manifests: list[Manifest]) -> Iterator[str]:
    """``backoffLimitPerIndex`` needs an Indexed Job whose pods never restart."""
    for job in of_kind(manifests, "Job"):
        spec = job["spec"]
        if "backoffLimitPerIndex" in spec and (
            spec.get("completionMode") != "Indexed" or spec["template"]["spec"].get("restartPolicy") != "Never"
        ):
            yield f"Job/{job['metadata']['name']}: backoffLimitPerIndex without Indexed and Never"


RULES: tuple[Rule, ...] = (
    volume_mounts_name_volumes,
    names_are_unique,
    object_names_are_dns_labels,
    environment_names_are_set,
    labels_are_labels,
    port_names_are_short,
    extended_resources_are_whole_limits,
    probes_have_one_handler,
    host_network_ports_are_equal,
    pod_restart_policy_fits,
    privileged_may_escalate,
    process_namespace_is_one,
    claims_are_declared,
    deployment_selects_its_pods,
    rollout_can_move,
    subgroups_divide_the_group,
    indexed_backoff_fits,
)
