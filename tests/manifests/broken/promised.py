"""Manifests that break a promise of k8s/, one each."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tests.manifests.broken.reach import (
    HOST,
    PREFILL_DECODE,
    PREFLIGHT,
    Case,
    container,
    group,
    of,
    pod,
    router,
    template,
)
from tests.manifests.rules import promised as rules

if TYPE_CHECKING:
    from tests.manifests.manifest_set import Manifest


def drift(m: list[Manifest]) -> None:
    leader = copy.deepcopy(template(m))
    leader["spec"]["containers"][0]["env"][0]["value"] = "INFO"
    group(m)["spec"]["leaderWorkerTemplate"]["leaderTemplate"] = leader


def kept_command(m: list[Manifest]) -> None:
    container(m)["command"] = ["python3", "-m", "sglang.launch_server"]


def no_arguments(m: list[Manifest]) -> None:
    del container(m)["args"]


def kept_index(m: list[Manifest]) -> None:
    container(m)["env"].append({"name": "NCCL_IB_GID_INDEX", "value": "3"})


def kept_tp(m: list[Manifest]) -> None:
    container(m)["args"] += ["--tp", "16"]


def no_recreation(m: list[Manifest]) -> None:
    group(m)["spec"]["leaderWorkerTemplate"]["restartPolicy"] = "None"


def guide_probe(m: list[Manifest]) -> None:
    probe = container(m)["readinessProbe"]
    del probe["httpGet"]
    probe["tcpSocket"] = {"port": "http"}


def short_probe(m: list[Manifest]) -> None:
    container(m)["readinessProbe"]["timeoutSeconds"] = 5


def short_start(m: list[Manifest]) -> None:
    container(m)["startupProbe"]["failureThreshold"] = 180


def liveness(m: list[Manifest]) -> None:
    container(m)["livenessProbe"] = container(m)["readinessProbe"]


def other_port(m: list[Manifest]) -> None:
    arguments = container(m)["args"]
    arguments[arguments.index("--port") + 1] = "30000"


def pid_1(m: list[Manifest]) -> None:
    del pod(m)["shareProcessNamespace"]


def links(m: list[Manifest]) -> None:
    del pod(m)["enableServiceLinks"]


def host_ipc(m: list[Manifest]) -> None:
    pod(m)["hostIPC"] = True


def default_token(m: list[Manifest]) -> None:
    del pod(m)["automountServiceAccountToken"]


def router_without_token(m: list[Manifest]) -> None:
    of(m, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] = False


def default_grace(m: list[Manifest]) -> None:
    del pod(m)["terminationGracePeriodSeconds"]


def lost_log(m: list[Manifest]) -> None:
    del container(m)["terminationMessagePolicy"]


def disk_shm(m: list[Manifest]) -> None:
    next(v for v in pod(m)["volumes"] if v["name"] == "shm")["emptyDir"] = {}


def no_nccl_log(m: list[Manifest]) -> None:
    container(m)["env"] = []


def made_directory(m: list[Manifest]) -> None:
    del next(v for v in pod(m)["volumes"] if v["name"] == "model")["hostPath"]["type"]


def no_limits(m: list[Manifest]) -> None:
    del router(m)["resources"]["limits"]


def unbounded_request(m: list[Manifest]) -> None:
    container(m)["resources"]["requests"] = {"memory": "512Gi"}


def check_and_serve(m: list[Manifest]) -> None:
    preflight = of(m, "Job")["spec"]["template"]["spec"]["containers"][0]
    preflight["args"] += ["--model-path", "/work/models"]


CASES = (
    Case(rules.leader_and_worker_are_one, HOST, drift, r"leader and worker differ"),
    Case(rules.entrypoint_is_the_image_s, HOST, kept_command, r"command replaces"),
    Case(rules.entrypoint_is_the_image_s, HOST, no_arguments, r"no arguments"),
    Case(rules.nothing_is_computed_by_hand, HOST, kept_index, r"NCCL_IB_GID_INDEX is"),
    Case(rules.nothing_is_computed_by_hand, HOST, kept_tp, r"--tp is"),
    Case(rules.group_starts_and_restarts_whole, HOST, no_recreation, r"'None'"),
    Case(rules.probes_outlast_the_start, HOST, guide_probe, r"readinessProbe does not ask /health"),
    Case(rules.probes_outlast_the_start, HOST, short_probe, r"readinessProbe gives up"),
    Case(rules.probes_outlast_the_start, HOST, short_start, r"1800 s to start"),
    Case(rules.probes_outlast_the_start, HOST, liveness, r"one slow answer"),
    Case(rules.http_port_is_declared, HOST, other_port, r"--port is not"),
    Case(rules.pod_is_prepared, HOST, pid_1, r"SGLang is PID 1"),
    Case(rules.pod_is_prepared, HOST, links, r"service variables"),
    Case(rules.pod_is_prepared, HOST, host_ipc, r"hostIPC"),
    Case(rules.pod_is_prepared, HOST, default_grace, r"grace period"),
    Case(rules.token_is_for_the_router, HOST, default_token, r"a token that it has no use for"),
    Case(rules.token_is_for_the_router, PREFILL_DECODE, router_without_token, r"no token, but it lists pods"),
    Case(rules.pod_is_prepared, HOST, lost_log, r"end of the log"),
    Case(rules.shared_memory_is_a_volume, HOST, disk_shm, r"/dev/shm is not"),
    Case(rules.nccl_log_has_a_place, HOST, no_nccl_log, r"no NCCL_DEBUG"),
    Case(rules.host_directories_must_exist, HOST, made_directory, r"/data/models/DeepSeek-R1 is made"),
    Case(rules.resources_stand_in_limits, PREFILL_DECODE, no_limits, r"no limits"),
    Case(rules.resources_stand_in_limits, HOST, unbounded_request, r"memory is requested without a limit"),
    Case(rules.preflight_starts_nothing, PREFLIGHT, check_and_serve, r"does more than --check or"),
)
