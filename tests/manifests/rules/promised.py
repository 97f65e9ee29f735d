"""What these manifests promise: one text for leader and worker, probes that fit, nothing by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_roce_entry.group.wait import PORTS_FREE_WITHIN_S
from sglang_roce_entry.invocation import Settings
from tests.manifests.manifest_set import Manifest, group_templates, pod_templates, rehearses, serving_templates
from tests.manifests.rules.walk import Rule, containers, of_kind, option, port_number

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds. The launcher's own waits, as it is installed here; then the model.
LAUNCHER_WAIT_S = Settings().wait_deadline + Settings().hca_wait + PORTS_FREE_WITHIN_S
MODEL_LOAD_S = 1800
HEALTH_CHECK_S = 20  # SGLANG_HEALTH_CHECK_TIMEOUT: /health generates a token


def leader_and_worker_are_one(manifests: list[Manifest]) -> Iterator[str]:
    """Leader and worker run the same pod."""
    for group in of_kind(manifests, "LeaderWorkerSet"):
        leader, worker = group_templates(group)
        if leader != worker:
            yield f"LeaderWorkerSet/{group['metadata']['name']}: leader and worker differ"


def entrypoint_is_the_image_s(manifests: list[Manifest]) -> Iterator[str]:
    """``command`` would replace ``sglang-roce-entry``."""
    for pod, container in containers(manifests):
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
    for group in of_kind(manifests, "LeaderWorkerSet"):
        rehearsal = all(rehearses(pod) for pod in pod_templates([group]))
        policies = (
            group["spec"].get("startupPolicy"),
            group["spec"]["leaderWorkerTemplate"].get("restartPolicy"),
        )
        # A rehearsal that ends must not take the other pods' logs with it.
        if policies != ("LeaderCreated", "None" if rehearsal else "RecreateGroupOnPodRestart"):
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
        if str(port_number([container], "http")) != option(container, "--port"):
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


def token_is_for_the_router(manifests: list[Manifest]) -> Iterator[str]:
    """Find tokens of the API server in pods whose account has no RoleBinding, and the reverse."""
    bound = {subject["name"] for b in of_kind(manifests, "RoleBinding") for subject in b["subjects"]}
    for pod in pod_templates(manifests):
        wanted = pod.spec.get("serviceAccountName") in bound
        if pod.spec.get("automountServiceAccountToken") is not wanted:
            yield f"{pod.name}: {'no token, but it lists pods' if wanted else 'a token that it has no use for'}"


def shared_memory_is_a_volume(manifests: list[Manifest]) -> Iterator[str]:
    """``/dev/shm`` is a Memory emptyDir with a limit."""
    for pod in serving_templates(manifests):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        for container in pod.containers:
            mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
            shared = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
            if shared.get("medium") != "Memory" or "sizeLimit" not in shared:
                yield f"{pod.name}: /dev/shm is not a limited Memory emptyDir"


def resources_stand_in_limits(manifests: list[Manifest]) -> Iterator[str]:
    """Find containers without limits, and requests that no limit bounds."""
    for pod, container in containers(manifests):
        resources = container.get("resources", {})
        limits = resources.get("limits", {})
        if not limits:
            yield f"{pod.name}: no limits"
        for name in sorted(set(resources.get("requests", {})) - set(limits)):
            yield f"{pod.name}: {name} is requested without a limit"


def preflight_starts_nothing(manifests: list[Manifest]) -> Iterator[str]:
    """Find Jobs that do not end with ``--check`` or ``--rehearse``: with a word to run, or SGLang's arguments."""
    for pod, container in containers(manifests):
        if pod.kind == "Job" and container.get("args", [])[-1:] not in (["--check"], ["--rehearse"]):
            yield f"{pod.name}: does more than --check or --rehearse"


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


RULES: tuple[Rule, ...] = (
    leader_and_worker_are_one,
    entrypoint_is_the_image_s,
    nothing_is_computed_by_hand,
    group_starts_and_restarts_whole,
    probes_outlast_the_start,
    http_port_is_declared,
    pod_is_prepared,
    token_is_for_the_router,
    shared_memory_is_a_volume,
    resources_stand_in_limits,
    preflight_starts_nothing,
    nccl_log_has_a_place,
    host_directories_must_exist,
)
