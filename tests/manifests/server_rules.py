"""What no schema knows: faults that an API server refuses, and faults that nothing refuses.

Each rule takes the documents of one variant and yields a sentence for each fault. The first group is
what kube-apiserver says to the pods; LeaderWorkerSet's webhook does not look into its templates, so
there the fault shows as an event and no pod. The second group breaks in silence. The third is what
these manifests promise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from tests.manifests.injection import LWS_VARIABLES, container_environment, lws_variables
from tests.manifests.manifest_set import (
    Manifest,
    PodTemplate,
    group_templates,
    pod_templates,
    serving_templates,
)

Rule = Callable[[list[Manifest]], Iterator[str]]

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
HANDLERS = frozenset({"exec", "httpGet", "tcpSocket", "grpc"})
NETWORKS = "k8s.v1.cni.cncf.io/networks"
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
# Seconds. The launcher's own: wait-deadline, hca-wait, waiting for free ports; then the model.
LAUNCHER_WAIT_S = 1800 + 60 + 60
MODEL_LOAD_S = 1800
HEALTH_CHECK_S = 20  # SGLANG_HEALTH_CHECK_TIMEOUT: /health generates a token


def _duplicates(values: Iterable[Any]) -> list[Any]:
    seen = list(values)
    return sorted({value for value in seen if seen.count(value) > 1}, key=str)


def _of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def _containers(manifests: list[Manifest]) -> Iterator[tuple[PodTemplate, Manifest]]:
    for pod in pod_templates(manifests):
        for container in pod.containers:
            yield pod, container


def _probes(manifests: list[Manifest]) -> Iterator[tuple[PodTemplate, Manifest, str, Manifest]]:
    for pod, container in _containers(manifests):
        for kind in PROBES:
            if kind in container:
                yield pod, container, kind, container[kind]


# ---- refused by the API server ---------------------------------------------------------------


def volume_mounts_name_volumes(manifests: list[Manifest]) -> Iterator[str]:
    """Find volumeMounts without a volume of their name in the pod."""
    for pod, container in _containers(manifests):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{pod.name}: no volume {mount['name']!r}"


def names_are_unique(manifests: list[Manifest]) -> Iterator[str]:
    """Objects, volumes, containers, ports and mount paths have one name each."""
    identities = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    for kind, name in _duplicates(identities):
        yield f"{kind}/{name} twice"
    for pod in pod_templates(manifests):
        for volume in _duplicates(volume["name"] for volume in pod.spec.get("volumes", [])):
            yield f"{pod.name}: volume {volume!r} twice"
        for name in _duplicates(container["name"] for container in pod.containers):
            yield f"{pod.name}: container {name!r} twice"
    for pod, container in _containers(manifests):
        for name in _duplicates(port.get("name") for port in container.get("ports", [])):
            yield f"{pod.name}: port {name!r} twice"
        for path in _duplicates(mount["mountPath"] for mount in container.get("volumeMounts", [])):
            yield f"{pod.name}: two volumes on {path}"


def object_names_are_dns_labels(manifests: list[Manifest]) -> Iterator[str]:
    """Names become host names: DNS-1035 labels, as the webhook of LeaderWorkerSet asks."""
    for manifest in manifests:
        if not DNS_LABEL.fullmatch(manifest["metadata"]["name"]):
            yield f"{manifest['kind']}/{manifest['metadata']['name']} is no DNS label"


def environment_names_are_set(manifests: list[Manifest]) -> Iterator[str]:
    """Find environment variables without a name, or with ``=`` in it."""
    for pod, container in _containers(manifests):
        for entry in container.get("env", []):
            if not entry.get("name") or "=" in entry["name"]:
                yield f"{pod.name}: environment name {entry.get('name')!r}"


def extended_resources_are_whole_limits(manifests: list[Manifest]) -> Iterator[str]:
    """Find extended resources that are no whole numbers, not in limits, or requested differently."""
    for pod, container in _containers(manifests):
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
    for pod, _container, kind, probe in _probes(manifests):
        if len(HANDLERS & set(probe)) != 1:
            yield f"{pod.name}: {kind} has the handlers {sorted(HANDLERS & set(probe))}"


def host_network_ports_are_equal(manifests: list[Manifest]) -> Iterator[str]:
    """On the host network a hostPort, where given, is the containerPort."""
    for pod, container in _containers(manifests):
        for port in container.get("ports", []) if pod.spec.get("hostNetwork") else []:
            if port.get("hostPort", port["containerPort"]) != port["containerPort"]:
                yield f"{pod.name}: hostPort {port['hostPort']} is not {port['containerPort']}"


def pod_restart_policy_fits(manifests: list[Manifest]) -> Iterator[str]:
    """StatefulSets and Deployments restart always; a Job never does, or on failure."""
    for pod in pod_templates(manifests):
        policy = pod.spec.get("restartPolicy", "Always")
        allowed = {"Never", "OnFailure"} if pod.kind == "Job" else {"Always"}
        if policy not in allowed:
            yield f"{pod.name}: restartPolicy {policy}"


def privileged_may_escalate(manifests: list[Manifest]) -> Iterator[str]:
    """``privileged`` and ``allowPrivilegeEscalation: false`` exclude each other."""
    for pod, container in _containers(manifests):
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
    templates = {m["metadata"]["name"] for m in _of_kind(manifests, "ResourceClaimTemplate")}
    for pod, container in _containers(manifests):
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
    for group in _of_kind(manifests, "LeaderWorkerSet"):
        rolling = group["spec"].get("rolloutStrategy", {}).get("rollingUpdateConfiguration", {})
        moves = (rolling.get("maxUnavailable", 1), rolling.get("maxSurge", 0))
        if {str(move).rstrip("%") for move in moves} == {"0"}:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: no room to roll"


def subgroups_divide_the_group(manifests: list[Manifest]) -> Iterator[str]:
    """``size`` or ``size - 1`` is a multiple of ``subGroupSize``."""
    for group in _of_kind(manifests, "LeaderWorkerSet"):
        template = group["spec"]["leaderWorkerTemplate"]
        part, size = template.get("subGroupPolicy", {}).get("subGroupSize", 1), template.get("size", 1)
        if size % part and (size - 1) % part:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: {size} nodes in parts of {part}"


def indexed_backoff_fits(manifests: list[Manifest]) -> Iterator[str]:
    """``backoffLimitPerIndex`` needs an Indexed Job whose pods never restart."""
    for job in _of_kind(manifests, "Job"):
        spec = job["spec"]
        if "backoffLimitPerIndex" in spec and (
            spec.get("completionMode") != "Indexed" or spec["template"]["spec"].get("restartPolicy") != "Never"
        ):
            yield f"Job/{job['metadata']['name']}: backoffLimitPerIndex without Indexed and Never"


# ---- accepted, and broken --------------------------------------------------------------------


def group_name_is_short(manifests: list[Manifest]) -> Iterator[str]:
    """Pods carry ``<set>-<group>-<hash>`` as a label of 63 characters: LWS, Troubleshooting 3."""
    for group in _of_kind(manifests, "LeaderWorkerSet"):
        name, replicas = group["metadata"]["name"], group["spec"].get("replicas", 1)
        if len(name) > 51 - (len(str(max(replicas - 1, 0))) - 1):
            yield f"LeaderWorkerSet/{name}: a name of {len(name)} characters leaves no worker pods"


def leader_need_not_be_ready(manifests: list[Manifest]) -> Iterator[str]:
    """``LeaderReady`` with workers is a deadlock: SGLang's leader is ready after its workers."""
    for group in _of_kind(manifests, "LeaderWorkerSet"):
        size = group["spec"]["leaderWorkerTemplate"].get("size", 1)
        if group["spec"].get("startupPolicy") == "LeaderReady" and size > 1:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: workers never start"


def service_does_not_shadow_the_group(manifests: list[Manifest]) -> Iterator[str]:
    """LWS makes no headless Service where one of its name exists: the leader never resolves."""
    groups = {group["metadata"]["name"] for group in _of_kind(manifests, "LeaderWorkerSet")}
    for service in _of_kind(manifests, "Service"):
        if service["metadata"]["name"] in groups:
            yield f"Service/{service['metadata']['name']} takes the place of LWS's own"


def services_select_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Find Services that select no pod of the variant, or a port that it does not have."""
    for service in _of_kind(manifests, "Service"):
        wanted = service["spec"].get("selector", {}).items()
        chosen = [pod for pod in pod_templates(manifests) if wanted <= pod.labels.items()]
        if not wanted or not chosen:
            yield f"Service/{service['metadata']['name']} selects no pod"
        for pod, port in ((pod, port) for pod in chosen for port in service["spec"]["ports"]):
            if _port_number(pod.containers, port.get("targetPort", port["port"])) is None:
                yield f"Service/{service['metadata']['name']}: {pod.name} has no {port['targetPort']}"


def host_network_uses_cluster_dns(manifests: list[Manifest]) -> Iterator[str]:
    """On the host network ``ClusterFirst`` means the node's resolver: no leader is found."""
    for pod in pod_templates(manifests):
        if pod.spec.get("hostNetwork") and pod.spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
            yield f"{pod.name}: hostNetwork with dnsPolicy {pod.spec.get('dnsPolicy')}"


def probe_ports_exist(manifests: list[Manifest]) -> Iterator[str]:
    """Find probes of a port that the container does not declare."""
    for pod, container, kind, probe in _probes(manifests):
        port = probe.get("httpGet", {}).get("port")
        if port is not None and _port_number([container], port) is None:
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
    for pod, container in _containers(manifests):
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


def capabilities_have_no_prefix(manifests: list[Manifest]) -> Iterator[str]:
    """``CAP_IPC_LOCK`` is accepted and names no capability that a runtime knows."""
    for pod, container in _containers(manifests):
        given = container.get("securityContext", {}).get("capabilities", {})
        for capability in [*given.get("add", []), *given.get("drop", [])]:
            if capability.startswith("CAP_"):
                yield f"{pod.name}: {capability} has a prefix"


def ipc_lock_is_for_root(manifests: list[Manifest]) -> Iterator[str]:
    """Without ambient capabilities an added IPC_LOCK is not effective for another user than root."""
    for pod, container in _containers(manifests):
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        other_user = context.get("runAsNonRoot") or context.get("runAsUser", 0) != 0
        if other_user and "IPC_LOCK" in context.get("capabilities", {}).get("add", []):
            yield f"{pod.name}: IPC_LOCK for a user other than root"


def networks_match_functions(manifests: list[Manifest]) -> Iterator[str]:
    """As many Multus networks as virtual functions: a function without one has no address."""
    for pod, container in _containers(manifests):
        limits = container.get("resources", {}).get("limits", {})
        functions = sum(int(count) for name, count in limits.items() if re.fullmatch(r"nvidia\.com/.*vf.*", name))
        networks = [n for n in pod.metadata.get("annotations", {}).get(NETWORKS, "").split(",") if n]
        if len(networks) != functions:
            yield f"{pod.name}: {len(networks)} networks for {functions} functions"


def preflight_asks_all_at_once(manifests: list[Manifest]) -> Iterator[str]:
    """Every node is asked, at the same time, and by one pod."""
    for job in _of_kind(manifests, "Job"):
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
    for pod, container in _containers(manifests):
        arguments = container.get("args", [])
        for role in ("prefill", "decode"):
            option = f"--{role}-selector"
            if option not in arguments:
                continue
            values = arguments[arguments.index(option) + 1 :]
            end = next((i for i, text in enumerate(values) if text.startswith("--")), len(values))
            wanted = dict(value.split("=", 1) for value in values[:end]).items()
            chosen = [p for p in serving_templates(manifests) if wanted <= p.labels.items()]
            modes = {_option(p.containers[0], "--disaggregation-mode") for p in chosen}
            if modes != {role}:
                yield f"{pod.name}: {option} finds {sorted(map(str, modes))}"
            for server in chosen:
                if _option(container, "--service-discovery-port") != _option(server.containers[0], "--port"):
                    yield f"{pod.name}: another port than {server.name}"


def bootstrap_port_is_announced(manifests: list[Manifest]) -> Iterator[str]:
    """Find bootstrap ports that the annotation, from which the router learns them, does not say."""
    for pod in serving_templates(manifests):
        wanted = _option(pod.containers[0], "--disaggregation-bootstrap-port")
        if pod.metadata.get("annotations", {}).get("sglang.ai/bootstrap-port") != wanted:
            yield f"{pod.name}: the annotation does not say {wanted}"


# ---- promises of these manifests -------------------------------------------------------------


def leader_and_worker_are_one(manifests: list[Manifest]) -> Iterator[str]:
    """Leader and worker run the same pod."""
    for group in _of_kind(manifests, "LeaderWorkerSet"):
        leader, worker = group_templates(group)
        if leader != worker:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: leader and worker differ"


def entrypoint_is_the_image_s(manifests: list[Manifest]) -> Iterator[str]:
    """``command`` would replace ``sglang-roce-entry``."""
    for pod, container in _containers(manifests):
        if "command" in container:
            yield f"{pod.name}: command replaces the launcher"
        if not container.get("args"):
            yield f"{pod.name}: no arguments"


def nothing_is_computed_by_hand(manifests: list[Manifest]) -> Iterator[str]:
    """Find what the launcher finds out by itself."""
    computed_arguments = ("--nnodes", "--node-rank", "--dist-init-addr", "--tp", "--disaggregation-ib")
    computed_variables = ("NCCL_IB_", "NCCL_SOCKET_", "GLOO_", "NVSHMEM_", "MC_", "UCX_")
    for pod in serving_templates(manifests):
        for container in pod.containers:
            for text in container.get("args", []):
                if text.startswith(computed_arguments):
                    yield f"{pod.name}: {text} is the launcher's"
            for entry in container.get("env", []):
                if entry["name"].startswith(computed_variables):
                    yield f"{pod.name}: {entry['name']} is the launcher's"


def group_starts_and_restarts_whole(manifests: list[Manifest]) -> Iterator[str]:
    """Both policies are written down, with the values that SGLang needs."""
    for group in _of_kind(manifests, "LeaderWorkerSet"):
        policies = (
            group["spec"].get("startupPolicy"),
            group["spec"]["leaderWorkerTemplate"].get("restartPolicy"),
        )
        if policies != ("LeaderCreated", "RecreateGroupOnPodRestart"):
            yield f"LeaderWorkerSet/{group['metadata']['name']}: {policies}"


def probes_outlast_the_start(manifests: list[Manifest]) -> Iterator[str]:
    """HTTP probes on /health that fit the launcher's waits, the model's load and SGLang's check."""
    for pod in serving_templates(manifests):
        container = pod.containers[0]
        for kind in ("startupProbe", "readinessProbe"):
            probe = container.get(kind, {})
            if probe.get("httpGet", {}).get("path") != "/health":
                yield f"{pod.name}: {kind} does not ask /health"
            if probe.get("timeoutSeconds", 1) <= HEALTH_CHECK_S:
                yield f"{pod.name}: {kind} gives up during SGLang's own check"
        startup = container.get("startupProbe", {})
        budget = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
        if budget < LAUNCHER_WAIT_S + MODEL_LOAD_S:
            yield f"{pod.name}: {budget} s to start are too few"
        if "livenessProbe" in container:
            yield f"{pod.name}: one slow answer would restart the group"


def http_port_is_declared(manifests: list[Manifest]) -> Iterator[str]:
    """Find ports told to SGLang that are not the one declared, probed and served."""
    for pod in serving_templates(manifests):
        container = pod.containers[0]
        if str(_port_number([container], "http")) != _option(container, "--port"):
            yield f"{pod.name}: --port is not the port http"


def pod_is_prepared(manifests: list[Manifest]) -> Iterator[str]:
    """Process namespace, service links, IPC, grace period, termination message."""
    for pod in pod_templates(manifests):
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name}: service variables reach SGLang"
        if pod.spec.get("hostIPC"):
            yield f"{pod.name}: hostIPC"
        if pod.kind == "LeaderWorkerSet":
            if not pod.spec.get("shareProcessNamespace"):
                yield f"{pod.name}: SGLang is PID 1"
            if not 60 <= pod.spec.get("terminationGracePeriodSeconds", 30) <= 300:
                yield f"{pod.name}: the grace period does not fit SGLang's drain"
        for container in pod.containers:
            if container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
                yield f"{pod.name}: the end of the log is lost"


def shared_memory_is_a_volume(manifests: list[Manifest]) -> Iterator[str]:
    """``/dev/shm`` is a Memory emptyDir with a limit."""
    for pod in serving_templates(manifests):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        for container in pod.containers:
            mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
            shared = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
            if shared.get("medium") != "Memory" or "sizeLimit" not in shared:
                yield f"{pod.name}: /dev/shm is not a limited Memory emptyDir"


def nccl_log_has_a_place(manifests: list[Manifest]) -> Iterator[str]:
    """``NCCL_DEBUG`` stands where a user looks for it."""
    for pod in serving_templates(manifests):
        for container in pod.containers:
            if "NCCL_DEBUG" not in {entry["name"] for entry in container.get("env", [])}:
                yield f"{pod.name}: no NCCL_DEBUG"


def host_directories_must_exist(manifests: list[Manifest]) -> Iterator[str]:
    """Find hostPaths without a type: they make an empty directory where the model is missing."""
    for pod in pod_templates(manifests):
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume and volume["hostPath"].get("type") != "Directory":
                yield f"{pod.name}: hostPath {volume['hostPath']['path']} is made if it is missing"


REFUSED: tuple[Rule, ...] = (
    volume_mounts_name_volumes,
    names_are_unique,
    object_names_are_dns_labels,
    environment_names_are_set,
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
SILENT: tuple[Rule, ...] = (
    group_name_is_short,
    leader_need_not_be_ready,
    service_does_not_shadow_the_group,
    services_select_pods,
    host_network_uses_cluster_dns,
    probe_ports_exist,
    volumes_are_mounted,
    references_expand,
    group_variables_are_not_redefined,
    capabilities_have_no_prefix,
    ipc_lock_is_for_root,
    networks_match_functions,
    preflight_asks_all_at_once,
    router_selects_leaders,
    bootstrap_port_is_announced,
)
PROMISES: tuple[Rule, ...] = (
    leader_and_worker_are_one,
    entrypoint_is_the_image_s,
    nothing_is_computed_by_hand,
    group_starts_and_restarts_whole,
    probes_outlast_the_start,
    http_port_is_declared,
    pod_is_prepared,
    shared_memory_is_a_volume,
    nccl_log_has_a_place,
    host_directories_must_exist,
)
RULES = (*REFUSED, *SILENT, *PROMISES)


def _port_number(containers: list[Manifest], port: Any) -> int | None:
    for declared in chain.from_iterable(container.get("ports", []) for container in containers):
        if port in {declared.get("name"), declared["containerPort"]}:
            return int(declared["containerPort"])
    return None


def _option(container: Manifest, option: str) -> str | None:
    arguments = container.get("args", [])
    position = arguments.index(option) + 1 if option in arguments else len(arguments)
    return str(arguments[position]) if position < len(arguments) else None
