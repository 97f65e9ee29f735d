"""What every server accepts, and what then breaks silently."""

from __future__ import annotations

import math
import re
from itertools import chain, combinations
from typing import TYPE_CHECKING

from tests.manifests.injection import LWS_VARIABLES, container_environment, lws_variables
from tests.manifests.manifest_set import Manifest, PodTemplate, pod_templates, serving_templates
from tests.manifests.rules.walk import Rule, containers, duplicates, of_kind, option, port_number, probes

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORKS = "k8s.v1.cni.cncf.io/networks"


def longest_group_name(groups: int = 1) -> int:
    """Return how many characters the name of a LeaderWorkerSet may have with this many groups.

    The worker pods of group ``g`` carry the label ``controller-revision-hash`` with the value
    ``<set>-<g>-<hash>``, 63 characters at most. The hash is a decimal FNV-32 of up to ten digits
    (Kubernetes, ``pkg/controller/history``, ``HashControllerRevision``). LWS's Troubleshooting says 51:
    that holds for a quarter of all templates, those whose hash has nine digits.
    """
    return 63 - len(f"-{max(groups - 1, 0)}-") - len(str(2**32 - 1))


def group_name_is_short(manifests: list[Manifest]) -> Iterator[str]:
    """Longer than ``longest_group_name``, and the worker pods of a group are refused."""
    for group in of_kind(manifests, "LeaderWorkerSet"):
        name, spec = group["metadata"]["name"], group["spec"]
        surge = spec.get("rolloutStrategy", {}).get("rollingUpdateConfiguration", {}).get("maxSurge", 0)
        groups = spec.get("replicas", 1)
        # A percentage is rounded up: intstr.GetScaledValueFromIntOrPercent.
        more = math.ceil(groups * int(surge[:-1]) / 100) if isinstance(surge, str) else surge
        if len(name) > longest_group_name(groups + more):
            yield f"LeaderWorkerSet/{name}: a name of {len(name)} characters leaves no worker pods"


def leader_need_not_be_ready(manifests: list[Manifest]) -> Iterator[str]:
    """``LeaderReady`` with workers is a deadlock: SGLang's leader is ready after its workers."""
    for group in of_kind(manifests, "LeaderWorkerSet"):
        size = group["spec"]["leaderWorkerTemplate"].get("size", 1)
        if group["spec"].get("startupPolicy") == "LeaderReady" and size > 1:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: workers never start"


def service_does_not_shadow_the_group(manifests: list[Manifest]) -> Iterator[str]:
    """LWS makes no headless Service where one of its name exists: the leader never resolves."""
    groups = {group["metadata"]["name"] for group in of_kind(manifests, "LeaderWorkerSet")}
    for service in of_kind(manifests, "Service"):
        if service["metadata"]["name"] in groups:
            yield f"Service/{service['metadata']['name']} takes the place of LWS's own"


def services_select_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Find Services that select no pod of the variant, or a port that it does not have."""
    for service in of_kind(manifests, "Service"):
        wanted = service["spec"].get("selector", {}).items()
        chosen = [pod for pod in pod_templates(manifests) if wanted <= pod.labels.items()]
        if not wanted or not chosen:
            yield f"Service/{service['metadata']['name']} selects no pod"
        for pod, port in ((pod, port) for pod in chosen for port in service["spec"].get("ports", [])):
            if port_number(pod.containers, port.get("targetPort", port["port"])) is None:
                yield f"Service/{service['metadata']['name']}: {pod.name} has no {port['targetPort']}"


def pods_have_the_name_that_they_are_called_by(manifests: list[Manifest]) -> Iterator[str]:
    """Find subdomains without a headless Service of that name, or one that hides pods that are not ready.

    (Kubernetes, "Pod's hostname and subdomain fields".) The leader is looked for before anything is ready.
    """
    services = {service["metadata"]["name"]: service["spec"] for service in of_kind(manifests, "Service")}
    for pod in pod_templates(manifests):
        if "subdomain" not in pod.spec:
            continue
        service = services.get(pod.spec["subdomain"], {})
        if service.get("clusterIP") != "None" or not service.get("selector", {}).items() <= pod.labels.items():
            yield f"{pod.name}: no headless Service {pod.spec['subdomain']}"
        elif not service.get("publishNotReadyAddresses"):
            yield f"{pod.name}: {pod.spec['subdomain']} has no names before a pod is ready"


def host_network_uses_cluster_dns(manifests: list[Manifest]) -> Iterator[str]:
    """On the host network ``ClusterFirst`` means the node's resolver: no leader is found."""
    for pod in pod_templates(manifests):
        if pod.spec.get("hostNetwork") and pod.spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
            yield f"{pod.name}: hostNetwork with dnsPolicy {pod.spec.get('dnsPolicy')}"


def probe_ports_exist(manifests: list[Manifest]) -> Iterator[str]:
    """Find probes of a port that the container does not declare."""
    for pod, container, kind, probe in probes(manifests):
        port = probe.get("httpGet", {}).get("port")
        if port is not None and port_number([container], port) is None:
            yield f"{pod.name}: {kind} asks port {port!r}"


def volumes_are_mounted(manifests: list[Manifest]) -> Iterator[str]:
    """Find volumes that no container mounts: somebody forgot the mount."""
    for pod in pod_templates(manifests):
        mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
        for volume in pod.spec.get("volumes", []):
            if volume["name"] not in mounted:
                yield f"{pod.name}: volume {volume['name']!r} is not mounted"


def references_expand(manifests: list[Manifest]) -> Iterator[str]:
    """``$(NAME)`` of a name that is not set reaches the process as it is written."""
    for pod, container in containers(manifests):
        injected = lws_variables(pod.owner, 0, 0) if pod.kind == "LeaderWorkerSet" else {}
        names = set(container_environment(pod, container, injected))
        for text in chain(container.get("args", []), container.get("command", [])):
            for name in re.findall(r"(?<!\$)\$\(([^()]*)\)", text):
                if name not in names:
                    yield f"{pod.name}: $({name}) is not set"


def group_variables_are_not_redefined(manifests: list[Manifest]) -> Iterator[str]:
    """LWS drops a user's ``LWS_*``: the manifest would say what is not done."""
    for pod in serving_templates(manifests):
        for entry in chain.from_iterable(c.get("env", []) for c in pod.containers):
            if entry["name"] in LWS_VARIABLES:
                yield f"{pod.name}: {entry['name']} is dropped by LeaderWorkerSet"


def environment_names_are_unique(manifests: list[Manifest]) -> Iterator[str]:
    """Of two entries of one name the last wins, and a merge keeps either."""
    for pod, container in containers(manifests):
        for name in duplicates(entry["name"] for entry in container.get("env", [])):
            yield f"{pod.name}: environment {name} twice"


def capabilities_have_no_prefix(manifests: list[Manifest]) -> Iterator[str]:
    """``CAP_IPC_LOCK`` is accepted and names no capability that a runtime knows."""
    for pod, container in containers(manifests):
        given = container.get("securityContext", {}).get("capabilities", {})
        for capability in [*given.get("add", []), *given.get("drop", [])]:
            if capability.startswith("CAP_"):
                yield f"{pod.name}: {capability} has a prefix"


def ipc_lock_is_for_root(manifests: list[Manifest]) -> Iterator[str]:
    """Without ambient capabilities an added IPC_LOCK is not effective for another user than root."""
    for pod, container in containers(manifests):
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        other_user = context.get("runAsNonRoot") or context.get("runAsUser", 0) != 0
        if other_user and "IPC_LOCK" in context.get("capabilities", {}).get("add", []):
            yield f"{pod.name}: IPC_LOCK for a user other than root"


def non_root_has_a_number(manifests: list[Manifest]) -> Iterator[str]:
    """``runAsNonRoot`` with the image's own user, root, or with 0: the kubelet never starts it."""
    for pod, container in containers(manifests):
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        if context.get("runAsNonRoot") and context.get("runAsUser", 0) == 0:
            yield f"{pod.name}: runAsNonRoot without a user other than root"


def networks_match_functions(manifests: list[Manifest]) -> Iterator[str]:
    """As many Multus networks as virtual functions: a function without one has no address."""
    for pod, container in containers(manifests):
        limits = container.get("resources", {}).get("limits", {})
        functions = sum(int(count) for name, count in limits.items() if re.fullmatch(r"nvidia\.com/.*vf.*", name))
        networks = [n for n in pod.metadata.get("annotations", {}).get(NETWORKS, "").split(",") if n]
        if len(networks) != functions:
            yield f"{pod.name}: {len(networks)} networks for {functions} functions"


def groups_keep_apart(manifests: list[Manifest]) -> Iterator[str]:
    """Two groups on one host network collide on the rendezvous port, unless a declared port parts them."""

    def declared(pod: PodTemplate) -> set[int]:
        return {p["containerPort"] for c in pod.containers for p in c.get("ports", [])}

    pods = [pod for pod in serving_templates(manifests) if pod.spec.get("hostNetwork")]
    for one, other in combinations(pods, 2):
        if not declared(one) & declared(other):
            yield f"{one.name} and {other.name} may share a node, and port 20000 there"


def ports_are_kept_from_outgoing_connections(manifests: list[Manifest]) -> Iterator[str]:
    """Find listeners above 29999: among NodePorts (30000-32767) or outgoing connections (32768-60999)."""
    for pod, container in containers(manifests):
        for declared in container.get("ports", []):
            if declared["containerPort"] >= 30000:
                yield f"{pod.name}: port {declared['containerPort']} may be taken by an outgoing connection"


def device_classes_are_asked_for(manifests: list[Manifest]) -> Iterator[str]:
    """Find DeviceClasses that no claim names: the claim then waits for one that nobody makes."""
    claims = [claim["spec"]["spec"]["devices"] for claim in of_kind(manifests, "ResourceClaimTemplate")]
    requests = [request for devices in claims for request in devices["requests"]]
    choices = [c for r in requests for c in (r.get("exactly"), *r.get("firstAvailable", [])) if c]
    asked = {choice["deviceClassName"] for choice in choices}
    for device_class in of_kind(manifests, "DeviceClass"):
        if device_class["metadata"]["name"] not in asked:
            yield f"no claim asks for DeviceClass {device_class['metadata']['name']}"


def preflight_asks_all_at_once(manifests: list[Manifest]) -> Iterator[str]:
    """Every node is asked, at the same time, and by one pod."""
    for job in of_kind(manifests, "Job"):
        spec, name = job["spec"], job["metadata"]["name"]
        if spec.get("parallelism") != spec.get("completions"):
            yield f"Job/{name}: parallelism is not completions"
        template = spec["template"]
        terms = (
            template["spec"].get("affinity", {}).get("podAntiAffinity", {})
            .get("requiredDuringSchedulingIgnoredDuringExecution", [])
        )  # fmt: skip
        labels = template.get("metadata", {}).get("labels", {}).items()
        apart = [
            term
            for term in terms
            if term["topologyKey"] == "kubernetes.io/hostname"
            and term["labelSelector"]["matchLabels"].items() <= labels
        ]
        if not apart:
            yield f"Job/{name}: two of its pods may share a node"


def router_selects_leaders(manifests: list[Manifest]) -> Iterator[str]:
    """Find selectors of the router that miss the leaders of their role, or another port than theirs."""
    for pod, container in containers(manifests):
        arguments = container.get("args", [])
        for role in ("prefill", "decode"):
            selector = f"--{role}-selector"
            if selector not in arguments:
                continue
            values = arguments[arguments.index(selector) + 1 :]
            end = next((i for i, text in enumerate(values) if text.startswith("--")), len(values))
            wanted = dict(value.split("=", 1) for value in values[:end]).items()
            chosen = [p for p in serving_templates(manifests) if wanted <= p.labels.items()]
            modes = {option(p.containers[0], "--disaggregation-mode") for p in chosen}
            if modes != {role}:
                yield f"{pod.name}: {selector} finds {sorted(map(str, modes))}"
            for server in chosen:
                if option(container, "--service-discovery-port") != option(server.containers[0], "--port"):
                    yield f"{pod.name}: another port than {server.name}"


def bootstrap_port_is_announced(manifests: list[Manifest]) -> Iterator[str]:
    """Find bootstrap ports that the annotation, from which the router learns them, does not say."""
    for pod in serving_templates(manifests):
        wanted = option(pod.containers[0], "--disaggregation-bootstrap-port")
        if pod.metadata.get("annotations", {}).get("sglang.ai/bootstrap-port") != wanted:
            yield f"{pod.name}: the annotation does not say {wanted}"


RULES: tuple[Rule, ...] = (
    group_name_is_short,
    leader_need_not_be_ready,
    service_does_not_shadow_the_group,
    services_select_pods,
    pods_have_the_name_that_they_are_called_by,
    host_network_uses_cluster_dns,
    probe_ports_exist,
    volumes_are_mounted,
    references_expand,
    group_variables_are_not_redefined,
    environment_names_are_unique,
    capabilities_have_no_prefix,
    ipc_lock_is_for_root,
    non_root_has_a_number,
    networks_match_functions,
    groups_keep_apart,
    ports_are_kept_from_outgoing_connections,
    device_classes_are_asked_for,
    preflight_asks_all_at_once,
    router_selects_leaders,
    bootstrap_port_is_announced,
)
