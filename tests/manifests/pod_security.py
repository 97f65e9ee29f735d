"""The Pod Security level of a pod, as far as these manifests can reach.

The rules are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/ for the
fields that are used here; a field that is not known below makes ``level`` fail instead of passing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.manifests.manifest_set import LEVELS, PodTemplate

if TYPE_CHECKING:
    from collections.abc import Iterator

BASELINE_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
RESTRICTED_VOLUMES = frozenset(
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"]
)
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
KNOWN_SECURITY_FIELDS = frozenset(
    [
        "allowPrivilegeEscalation",
        "capabilities",
        "privileged",
        "readOnlyRootFilesystem",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "seccompProfile",
    ]
)


def beyond_baseline(pod: PodTemplate) -> Iterator[str]:
    """Yield why the pod needs a namespace of level privileged."""
    yield from _unprofiled(pod)
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield field
    for volume in pod.spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"hostPath volume {volume['name']}"
    for container in pod.containers:
        context = container.get("securityContext", {})
        if context.get("privileged"):
            yield f"privileged container {container['name']}"
        for capability in context.get("capabilities", {}).get("add", []):
            if capability not in BASELINE_CAPABILITIES:
                yield f"capability {capability}"
        for port in container.get("ports", []):
            if port.get("hostPort"):
                yield f"hostPort {port['hostPort']}"
        if _effective(pod, container, "seccompProfile", {}).get("type") == "Unconfined":
            yield "seccomp Unconfined"
        yield from _asks_elsewhere(container)


def _unprofiled(pod: PodTemplate) -> Iterator[str]:
    for name, profile in pod.metadata.get("annotations", {}).items():
        if name.startswith(APPARMOR) and not profile.startswith(("runtime/default", "localhost/")):
            yield f"AppArmor profile {profile}"


def _asks_elsewhere(container: dict[str, Any]) -> Iterator[str]:
    """Yield what lets the kubelet call another address than the pod's (from Kubernetes 1.34 on)."""
    handlers = [container.get(kind, {}) for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
    handlers += container.get("lifecycle", {}).values()
    for handler in handlers:
        for kind in ("httpGet", "tcpSocket"):
            if handler.get(kind, {}).get("host"):
                yield f"{kind} of {handler[kind]['host']}"


def beyond_restricted(pod: PodTemplate) -> Iterator[str]:
    """Yield why the pod needs a namespace of level baseline at least."""
    for volume in pod.spec.get("volumes", []):
        for kind in set(volume) - {"name"} - RESTRICTED_VOLUMES:
            yield f"{kind} volume {volume['name']}"
    for container in pod.containers:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation is not false"
        if "ALL" not in context.get("capabilities", {}).get("drop", []):
            yield "not all capabilities are dropped"
        if set(context.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            yield "added capabilities"
        if _effective(pod, container, "runAsNonRoot", None) is not True:
            yield "runAsNonRoot is not true"
        if _effective(pod, container, "runAsUser", 1) == 0:
            yield "runAsUser is 0"
        if _effective(pod, container, "seccompProfile", {}).get("type") not in {
            "RuntimeDefault",
            "Localhost",
        }:
            yield "no seccomp profile"


def level(pod: PodTemplate) -> str:
    """Return the strictest level whose namespace admits the pod.

    Raises ``ValueError`` for a security field that these rules do not know.
    """
    contexts = [pod.spec.get("securityContext", {})]
    contexts += [container.get("securityContext", {}) for container in pod.containers]
    unknown = set().union(*contexts) - KNOWN_SECURITY_FIELDS
    if unknown:
        raise ValueError(f"security fields without a rule: {sorted(unknown)}")
    if any(beyond_baseline(pod)):
        return LEVELS[0]
    return LEVELS[1] if any(beyond_restricted(pod)) else LEVELS[2]


def _effective(pod: PodTemplate, container: dict[str, Any], field: str, default: Any) -> Any:
    of_pod = pod.spec.get("securityContext", {}).get(field, default)
    return container.get("securityContext", {}).get(field, of_pod)
