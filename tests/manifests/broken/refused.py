"""Manifests that an API server would refuse, one fault each."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tests.manifests.broken.reach import (
    DRA,
    HOST,
    PREFILL_DECODE,
    PREFLIGHT,
    PRIVILEGED,
    Case,
    container,
    group,
    of,
    pod,
    template,
)
from tests.manifests.rules import refused as rules

if TYPE_CHECKING:
    from tests.manifests.manifest_set import Manifest


def drop_volume(m: list[Manifest]) -> None:
    pod(m)["volumes"] = [v for v in pod(m)["volumes"] if v["name"] != "shm"]


def two_containers(m: list[Manifest]) -> None:
    pod(m)["containers"].append({**container(m), "ports": []})


def capital_name(m: list[Manifest]) -> None:
    group(m)["metadata"]["name"] = "1-Sglang"


def empty_variable(m: list[Manifest]) -> None:
    container(m)["env"].append({"name": "", "value": "x"})


def request_without_limit(m: list[Manifest]) -> None:
    resources = container(m)["resources"]
    resources["requests"] = {"rdma/hca_shared_devices_a": resources["limits"].pop("rdma/hca_shared_devices_a")}


def half_gpu(m: list[Manifest]) -> None:
    container(m)["resources"]["limits"]["nvidia.com/gpu"] = 0.5


def two_handlers(m: list[Manifest]) -> None:
    container(m)["readinessProbe"]["tcpSocket"] = {"port": "http"}


def other_host_port(m: list[Manifest]) -> None:
    container(m)["ports"][0]["hostPort"] = 8101


def never(m: list[Manifest]) -> None:
    pod(m)["restartPolicy"] = "Never"


def no_escalation(m: list[Manifest]) -> None:
    container(m)["securityContext"]["allowPrivilegeEscalation"] = False


def host_pid(m: list[Manifest]) -> None:
    pod(m)["hostPID"] = True


def undeclared_claim(m: list[Manifest]) -> None:
    del pod(m)["resourceClaims"]


def no_claim_template(m: list[Manifest]) -> None:
    m.remove(of(m, "ResourceClaimTemplate"))


def deployment_selector(m: list[Manifest]) -> None:
    of(m, "Deployment")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "other"


def no_room(m: list[Manifest]) -> None:
    rolling = {"maxUnavailable": 0, "maxSurge": "0%"}
    group(m)["spec"]["rolloutStrategy"] = {"rollingUpdateConfiguration": rolling}


def odd_subgroups(m: list[Manifest]) -> None:
    group(m)["spec"]["leaderWorkerTemplate"] |= {"size": 6, "subGroupPolicy": {"subGroupSize": 4}}


def not_indexed(m: list[Manifest]) -> None:
    del of(m, "Job")["spec"]["completionMode"]


def twice(m: list[Manifest]) -> None:
    m.append(copy.deepcopy(of(m, "Service")))


def two_volumes(m: list[Manifest]) -> None:
    pod(m)["volumes"].append({"name": "shm", "emptyDir": {}})


def two_port_names(m: list[Manifest]) -> None:
    container(m)["ports"].append({"name": "http", "containerPort": 8101})


def two_mounts(m: list[Manifest]) -> None:
    container(m)["volumeMounts"][1]["mountPath"] = "/dev/shm"


def number_as_label(m: list[Manifest]) -> None:
    template(m)["metadata"]["labels"]["app.kubernetes.io/version"] = 1


def long_label(m: list[Manifest]) -> None:
    group(m)["metadata"]["labels"]["app.kubernetes.io/version"] = "v" * 64


def long_port_name(m: list[Manifest]) -> None:
    container(m)["ports"][0]["name"] = "http-of-the-server"


def smaller_request(m: list[Manifest]) -> None:
    container(m)["resources"]["requests"] = {"nvidia.com/gpu": 4}


def same_port(m: list[Manifest]) -> None:
    container(m)["ports"].append({"name": "again", "containerPort": 8100})


CASES = (
    Case(rules.volume_mounts_name_volumes, HOST, drop_volume, r"no volume 'shm'"),
    Case(rules.names_are_unique, HOST, two_containers, r"container 'sglang' twice"),
    Case(rules.object_names_are_dns_labels, HOST, capital_name, r"1-Sglang is no DNS label"),
    Case(rules.environment_names_are_set, HOST, empty_variable, r"environment name ''"),
    Case(
        rules.extended_resources_are_whole_limits,
        HOST,
        request_without_limit,
        r"rdma/hca_shared_devices_a has a request but no limit",
    ),
    Case(rules.extended_resources_are_whole_limits, HOST, half_gpu, r"nvidia.com/gpu: 0.5 is no whole number"),
    Case(rules.probes_have_one_handler, HOST, two_handlers, r"readinessProbe has the handlers"),
    Case(rules.host_network_ports_are_equal, HOST, other_host_port, r"hostPort 8101 is not 8100"),
    Case(rules.pod_restart_policy_fits, HOST, never, r"restartPolicy Never"),
    Case(rules.privileged_may_escalate, PRIVILEGED, no_escalation, r"privileged without"),
    Case(rules.process_namespace_is_one, HOST, host_pid, r"shareProcessNamespace with hostPID"),
    Case(rules.claims_are_declared, DRA, undeclared_claim, r"claim 'roce' is not the pod's"),
    Case(rules.claims_are_declared, DRA, no_claim_template, r"no ResourceClaimTemplate for claim 'roce'"),
    Case(rules.deployment_selects_its_pods, PREFILL_DECODE, deployment_selector, r"selector does not match"),
    Case(rules.rollout_can_move, HOST, no_room, r"no room to roll"),
    Case(rules.subgroups_divide_the_group, HOST, odd_subgroups, r"6 nodes in parts of 4"),
    Case(rules.indexed_backoff_fits, PREFLIGHT, not_indexed, r"backoffLimitPerIndex without"),
    Case(rules.names_are_unique, HOST, twice, r"Service/sglang-leader twice"),
    Case(rules.names_are_unique, HOST, two_volumes, r"volume 'shm' twice"),
    Case(rules.names_are_unique, HOST, two_port_names, r"port 'http' twice"),
    Case(rules.names_are_unique, HOST, two_mounts, r"two volumes on /dev/shm"),
    Case(rules.labels_are_labels, HOST, number_as_label, r"version: 1$"),
    Case(rules.labels_are_labels, HOST, long_label, r"version: 'vvv"),
    Case(rules.port_names_are_short, HOST, long_port_name, r"port name 'http-of-the-server'"),
    Case(rules.extended_resources_are_whole_limits, HOST, smaller_request, r"request and limit differ"),
    Case(rules.host_network_ports_are_equal, HOST, same_port, r"port 8100 twice"),
)
