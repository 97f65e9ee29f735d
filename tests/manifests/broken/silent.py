"""Manifests that every server takes and that do not work, one fault each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.manifests.broken.reach import (
    DRA,
    HOST,
    PREFILL_DECODE,
    PREFLIGHT,
    REHEARSAL,
    RESTRICTED,
    SRIOV,
    Case,
    container,
    group,
    of,
    pod,
    router,
    set_argument,
    template,
)
from tests.manifests.rules import silent as rules
from tests.manifests.rules.silent import NETWORKS

if TYPE_CHECKING:
    from tests.manifests.manifest_set import Manifest


def long_name(m: list[Manifest]) -> None:
    group(m)["metadata"]["name"] = "s" * 51


def long_name_of_many(m: list[Manifest]) -> None:
    group(m)["metadata"]["name"] = "s" * 50
    group(m)["spec"]["replicas"] = 11


def long_name_of_a_surge(m: list[Manifest]) -> None:
    rolling = {"maxUnavailable": 0, "maxSurge": "25%"}
    group(m)["metadata"]["name"] = "s" * 50
    group(m)["spec"] |= {"replicas": 9, "rolloutStrategy": {"rollingUpdateConfiguration": rolling}}


def unused_class(m: list[Manifest]) -> None:
    of(m, "ResourceClaimTemplate")["spec"]["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = "nic"


def leader_ready(m: list[Manifest]) -> None:
    group(m)["spec"]["startupPolicy"] = "LeaderReady"


def shadow(m: list[Manifest]) -> None:
    of(m, "Service")["metadata"]["name"] = group(m)["metadata"]["name"]


def selects_nothing(m: list[Manifest]) -> None:
    of(m, "Service")["spec"]["selector"]["role"] = "leader"


def no_target(m: list[Manifest]) -> None:
    of(m, "Service")["spec"]["ports"][0]["targetPort"] = 30000


def node_resolver(m: list[Manifest]) -> None:
    del pod(m)["dnsPolicy"]


def probe_elsewhere(m: list[Manifest]) -> None:
    container(m)["startupProbe"]["httpGet"]["port"] = 30000


def forgotten_mount(m: list[Manifest]) -> None:
    container(m)["volumeMounts"] = [v for v in container(m)["volumeMounts"] if v["name"] != "model"]


def unset_reference(m: list[Manifest]) -> None:
    container(m)["args"] += ["--served-model-name", "$(MODEL_NAME)"]


def own_index(m: list[Manifest]) -> None:
    container(m)["env"].append({"name": "LWS_WORKER_INDEX", "value": "1"})


def prefix(m: list[Manifest]) -> None:
    container(m)["securityContext"]["capabilities"]["add"] = ["CAP_IPC_LOCK"]


def locked_user(m: list[Manifest]) -> None:
    container(m)["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]


def fewer_networks(m: list[Manifest]) -> None:
    template(m)["metadata"]["annotations"][NETWORKS] = "roce-vf,roce-vf"


def one_by_one(m: list[Manifest]) -> None:
    of(m, "Job")["spec"]["parallelism"] = 1


def same_node(m: list[Manifest]) -> None:
    del of(m, "Job")["spec"]["template"]["spec"]["affinity"]


def another_subdomain(m: list[Manifest]) -> None:
    of(m, "Job")["spec"]["template"]["spec"]["subdomain"] = "sglang"


def named_when_ready(m: list[Manifest]) -> None:
    del of(m, "Service")["spec"]["publishNotReadyAddresses"]


def roles_confused(m: list[Manifest]) -> None:
    arguments = router(m)["args"]
    arguments[arguments.index("app.kubernetes.io/component=prefill")] = "app.kubernetes.io/component=decode"


def router_port(m: list[Manifest]) -> None:
    arguments = router(m)["args"]
    arguments[arguments.index("--service-discovery-port") + 1] = "30000"


def other_bootstrap(m: list[Manifest]) -> None:
    prefill = next(d for d in m if d["metadata"]["name"] == "sglang-prefill")
    del prefill["spec"]["leaderWorkerTemplate"]["workerTemplate"]["metadata"]["annotations"]


def repeated_variable(m: list[Manifest]) -> None:
    container(m)["env"].append({"name": "NCCL_DEBUG", "value": "INFO"})


def unnumbered_user(m: list[Manifest]) -> None:
    del pod(m)["securityContext"]["runAsUser"]


def other_http_port(m: list[Manifest]) -> None:
    container(m)["ports"] = [{"name": "http", "containerPort": 8101}]
    set_argument(container(m), "--port", "8101")


def high_port(m: list[Manifest]) -> None:
    container(m)["ports"][0]["containerPort"] = 41000
    set_argument(container(m), "--port", "41000")


CASES = (
    Case(rules.group_name_is_short, HOST, long_name, r"51 characters"),
    Case(rules.group_name_is_short, HOST, long_name_of_many, r"50 characters"),
    Case(rules.group_name_is_short, HOST, long_name_of_a_surge, r"50 characters"),
    Case(rules.device_classes_are_asked_for, DRA, unused_class, r"no claim asks for DeviceClass roce-nic"),
    Case(rules.leader_need_not_be_ready, HOST, leader_ready, r"workers never start"),
    Case(rules.service_does_not_shadow_the_group, HOST, shadow, r"takes the place"),
    Case(rules.services_select_pods, HOST, selects_nothing, r"selects no pod"),
    Case(rules.services_select_pods, HOST, no_target, r"has no 30000"),
    Case(
        rules.pods_have_the_name_that_they_are_called_by, REHEARSAL, another_subdomain, r"no headless Service sgl"
    ),
    Case(rules.pods_have_the_name_that_they_are_called_by, REHEARSAL, named_when_ready, r"before a pod is ready"),
    Case(rules.host_network_uses_cluster_dns, HOST, node_resolver, r"dnsPolicy None"),
    Case(rules.probe_ports_exist, HOST, probe_elsewhere, r"startupProbe asks port 30000"),
    Case(rules.volumes_are_mounted, HOST, forgotten_mount, r"volume 'model' is not mounted"),
    Case(rules.references_expand, HOST, unset_reference, r"\$\(MODEL_NAME\) is not set"),
    Case(rules.group_variables_are_not_redefined, HOST, own_index, r"LWS_WORKER_INDEX is dropped"),
    Case(rules.capabilities_have_no_prefix, HOST, prefix, r"CAP_IPC_LOCK has a prefix"),
    Case(rules.ipc_lock_is_for_root, RESTRICTED, locked_user, r"IPC_LOCK for a user"),
    Case(rules.networks_match_functions, SRIOV, fewer_networks, r"2 networks for 4 functions"),
    Case(rules.preflight_asks_all_at_once, PREFLIGHT, one_by_one, r"parallelism is not completions"),
    Case(rules.preflight_asks_all_at_once, PREFLIGHT, same_node, r"may share a node"),
    Case(rules.router_selects_leaders, PREFILL_DECODE, roles_confused, r"--prefill-selector finds \['decode'\]"),
    Case(
        rules.router_selects_leaders,
        PREFILL_DECODE,
        router_port,
        r"another port than LeaderWorkerSet/sglang-prefill",
    ),
    Case(rules.bootstrap_port_is_announced, PREFILL_DECODE, other_bootstrap, r"does not say 8998"),
    Case(rules.environment_names_are_unique, HOST, repeated_variable, r"NCCL_DEBUG twice"),
    Case(rules.non_root_has_a_number, RESTRICTED, unnumbered_user, r"without a user"),
    Case(rules.ports_are_kept_from_outgoing_connections, HOST, high_port, r"port 41000 may be taken"),
    Case(rules.groups_keep_apart, PREFILL_DECODE, other_http_port, r"port 20000"),
)
