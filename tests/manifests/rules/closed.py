"""What k8s/ promises of access: nobody but the group reaches a server's own ports, and a pod may do the least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.manifests.manifest_set import Manifest, PodTemplate, pod_templates, rehearses, serving_templates
from tests.manifests.network_policy import Pod, allowed
from tests.manifests.rules.walk import Rule, containers, of_kind, port_number

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Ports that SGLang opens: the rendezvous, attention DP, an ephemeral one.
INNER = (20000, 20002, 20013, 41234)
DNS = 53
STRANGER = {"app": "stranger"}


def as_pod(pod: PodTemplate, address: str = "") -> Pod:
    """Return a pod as a policy sees it."""
    ports = {
        one["name"]: one["containerPort"] for container in pod.containers for one in container.get("ports", [])
    }
    return Pod(pod.labels, ports, address)


def group_is_closed(manifests: list[Manifest]) -> Iterator[str]:
    """In the pod network a policy lets only the group's own pods reach a server beside its HTTP port."""
    policies = of_kind(manifests, "NetworkPolicy")
    for template in serving_templates(manifests):
        if template.spec.get("hostNetwork") or rehearses(template):
            continue  # no policy applies to the node's network
        pod = as_pod(template)
        http = port_number(template.containers, "http") or 0
        ingress, egress = (allowed(policies, pod, direction) for direction in ("Ingress", "Egress"))
        if ingress is None or egress is None:
            yield f"{template.name}: no NetworkPolicy selects its pods"
            continue
        for port in INNER:
            if any(rule.covers(other, "TCP", port) for rule in ingress for other in (STRANGER, None)):
                yield f"{template.name}: everybody reaches port {port}"
            if not any(rule.covers(pod.labels, "TCP", port) for rule in ingress):
                yield f"{template.name}: its own group does not reach port {port}"
            if not any(rule.covers(pod.labels, "TCP", port) for rule in egress):
                yield f"{template.name}: it does not reach its own group on port {port}"
        if not any(rule.covers(None, "TCP", http) for rule in ingress):
            yield f"{template.name}: clients do not reach HTTP"
        for protocol in ("UDP", "TCP"):
            if not any(rule.covers(None, protocol, DNS) for rule in egress):
                yield f"{template.name}: no DNS over {protocol}"


def policies_select_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Find policies that select nothing of the variant: renamed sets, forgotten labels."""
    pods = [as_pod(template) for template in pod_templates(manifests)]
    for policy in of_kind(manifests, "NetworkPolicy"):
        if all(allowed([policy], pod, "Ingress") is None for pod in pods):
            yield f"NetworkPolicy/{policy['metadata']['name']} selects no pod"


def containers_may_do_the_least(manifests: list[Manifest]) -> Iterator[str]:
    """Read-only root, no new privileges, no capability but IPC_LOCK, seccomp; what is written has its volumes."""
    for pod, container in containers(manifests):
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{pod.name}: its root file system can be written"
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container.get("volumeMounts", [])}
        home = next((one["value"] for one in container.get("env", []) if one["name"] == "HOME"), "/root")
        if pod.kind != "Job" and not all("emptyDir" in mounts.get(path, {}) for path in ("/tmp", home)):
            yield f"{pod.name}: /tmp and {home} are no volumes"
        if context.get("privileged"):
            continue
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{pod.name}: it may gain privileges"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.name}: no seccomp profile"
        capabilities = context.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"IPC_LOCK"}:
            yield f"{pod.name}: more capabilities than IPC_LOCK"


RULES: tuple[Rule, ...] = (group_is_closed, policies_select_pods, containers_may_do_the_least)
