"""Every rule holds for every variant, and catches the one manifest that is broken for it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from tests.manifests import server_rules
from tests.manifests.manifest_set import K8S, Manifest, built
from tests.manifests.server_rules import RULES, Rule

Breaker = Callable[[list[Manifest]], None]

HOST, SRIOV, RESTRICTED = "roce-hostnetwork/shared-device-plugin", "roce-sriov/ipc-lock", "roce-sriov/restricted"
PREFILL_DECODE, DRA = "prefill-decode/shared-device-plugin", "dra/dranet"
PRIVILEGED, PREFLIGHT = "roce-hostnetwork/privileged", "preflight/shared-device-plugin"


def _of(manifests: list[Manifest], kind: str) -> Manifest:
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def _group(manifests: list[Manifest]) -> Manifest:
    return _of(manifests, "LeaderWorkerSet")


def _template(manifests: list[Manifest]) -> Manifest:
    template: Manifest = _group(manifests)["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    return template


def _pod(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = _template(manifests)["spec"]
    return spec


def _container(manifests: list[Manifest]) -> Manifest:
    container: Manifest = _pod(manifests)["containers"][0]
    return container


def _router(manifests: list[Manifest]) -> Manifest:
    router: Manifest = _of(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return router


def _drop_volume(m: list[Manifest]) -> None:
    _pod(m)["volumes"] = [v for v in _pod(m)["volumes"] if v["name"] != "shm"]


def _two_containers(m: list[Manifest]) -> None:
    _pod(m)["containers"].append({**_container(m), "ports": []})


def _capital_name(m: list[Manifest]) -> None:
    _group(m)["metadata"]["name"] = "1-Sglang"


def _empty_variable(m: list[Manifest]) -> None:
    _container(m)["env"].append({"name": "", "value": "x"})


def _request_without_limit(m: list[Manifest]) -> None:
    resources = _container(m)["resources"]
    resources["requests"] = {"rdma/hca_shared_devices_a": resources["limits"].pop("rdma/hca_shared_devices_a")}


def _half_gpu(m: list[Manifest]) -> None:
    _container(m)["resources"]["limits"]["nvidia.com/gpu"] = 0.5


def _two_handlers(m: list[Manifest]) -> None:
    _container(m)["readinessProbe"]["tcpSocket"] = {"port": "http"}


def _other_host_port(m: list[Manifest]) -> None:
    _container(m)["ports"][0]["hostPort"] = 40001


def _never(m: list[Manifest]) -> None:
    _pod(m)["restartPolicy"] = "Never"


def _no_escalation(m: list[Manifest]) -> None:
    _container(m)["securityContext"]["allowPrivilegeEscalation"] = False


def _host_pid(m: list[Manifest]) -> None:
    _pod(m)["hostPID"] = True


def _undeclared_claim(m: list[Manifest]) -> None:
    del _pod(m)["resourceClaims"]


def _no_claim_template(m: list[Manifest]) -> None:
    m.remove(_of(m, "ResourceClaimTemplate"))


def _deployment_selector(m: list[Manifest]) -> None:
    _of(m, "Deployment")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "other"


def _no_room(m: list[Manifest]) -> None:
    rolling = {"maxUnavailable": 0, "maxSurge": "0%"}
    _group(m)["spec"]["rolloutStrategy"] = {"rollingUpdateConfiguration": rolling}


def _odd_subgroups(m: list[Manifest]) -> None:
    _group(m)["spec"]["leaderWorkerTemplate"] |= {"size": 6, "subGroupPolicy": {"subGroupSize": 4}}


def _not_indexed(m: list[Manifest]) -> None:
    del _of(m, "Job")["spec"]["completionMode"]


def _long_name(m: list[Manifest]) -> None:
    _group(m)["metadata"]["name"] = "s" * 52


def _long_name_of_many(m: list[Manifest]) -> None:
    _group(m)["metadata"]["name"] = "s" * 51
    _group(m)["spec"]["replicas"] = 11


def _leader_ready(m: list[Manifest]) -> None:
    _group(m)["spec"]["startupPolicy"] = "LeaderReady"


def _shadow(m: list[Manifest]) -> None:
    _of(m, "Service")["metadata"]["name"] = _group(m)["metadata"]["name"]


def _selects_nothing(m: list[Manifest]) -> None:
    _of(m, "Service")["spec"]["selector"]["role"] = "leader"


def _no_target(m: list[Manifest]) -> None:
    _of(m, "Service")["spec"]["ports"][0]["targetPort"] = 30000


def _node_resolver(m: list[Manifest]) -> None:
    del _pod(m)["dnsPolicy"]


def _probe_elsewhere(m: list[Manifest]) -> None:
    _container(m)["startupProbe"]["httpGet"]["port"] = 30000


def _forgotten_mount(m: list[Manifest]) -> None:
    _container(m)["volumeMounts"] = [v for v in _container(m)["volumeMounts"] if v["name"] != "model"]


def _unset_reference(m: list[Manifest]) -> None:
    _container(m)["args"] += ["--served-model-name", "$(MODEL_NAME)"]


def _own_index(m: list[Manifest]) -> None:
    _container(m)["env"].append({"name": "LWS_WORKER_INDEX", "value": "1"})


def _prefix(m: list[Manifest]) -> None:
    _container(m)["securityContext"]["capabilities"]["add"] = ["CAP_IPC_LOCK"]


def _locked_user(m: list[Manifest]) -> None:
    _container(m)["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]


def _fewer_networks(m: list[Manifest]) -> None:
    _template(m)["metadata"]["annotations"][server_rules.NETWORKS] = "roce-vf,roce-vf"


def _one_by_one(m: list[Manifest]) -> None:
    _of(m, "Job")["spec"]["parallelism"] = 1


def _same_node(m: list[Manifest]) -> None:
    del _of(m, "Job")["spec"]["template"]["spec"]["affinity"]


def _roles_confused(m: list[Manifest]) -> None:
    arguments = _router(m)["args"]
    arguments[arguments.index("app.kubernetes.io/component=prefill")] = "app.kubernetes.io/component=decode"


def _router_port(m: list[Manifest]) -> None:
    arguments = _router(m)["args"]
    arguments[arguments.index("--service-discovery-port") + 1] = "30000"


def _other_bootstrap(m: list[Manifest]) -> None:
    for group in m:
        if group["metadata"]["name"] == "sglang-prefill" and group["kind"] == "LeaderWorkerSet":
            del group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["metadata"]["annotations"]


def _drift(m: list[Manifest]) -> None:
    leader = copy.deepcopy(_template(m))
    leader["spec"]["containers"][0]["env"][0]["value"] = "INFO"
    _group(m)["spec"]["leaderWorkerTemplate"]["leaderTemplate"] = leader


def _kept_command(m: list[Manifest]) -> None:
    _container(m)["command"] = ["python3", "-m", "sglang.launch_server"]


def _no_arguments(m: list[Manifest]) -> None:
    del _container(m)["args"]


def _kept_index(m: list[Manifest]) -> None:
    _container(m)["env"].append({"name": "NCCL_IB_GID_INDEX", "value": "3"})


def _kept_tp(m: list[Manifest]) -> None:
    _container(m)["args"] += ["--tp", "16"]


def _no_recreation(m: list[Manifest]) -> None:
    _group(m)["spec"]["leaderWorkerTemplate"]["restartPolicy"] = "None"


def _guide_probe(m: list[Manifest]) -> None:
    probe = _container(m)["readinessProbe"]
    del probe["httpGet"]
    probe["tcpSocket"] = {"port": "http"}


def _short_probe(m: list[Manifest]) -> None:
    _container(m)["readinessProbe"]["timeoutSeconds"] = 5


def _short_start(m: list[Manifest]) -> None:
    _container(m)["startupProbe"]["failureThreshold"] = 180


def _liveness(m: list[Manifest]) -> None:
    _container(m)["livenessProbe"] = _container(m)["readinessProbe"]


def _other_port(m: list[Manifest]) -> None:
    arguments = _container(m)["args"]
    arguments[arguments.index("--port") + 1] = "30000"


def _pid_1(m: list[Manifest]) -> None:
    del _pod(m)["shareProcessNamespace"]


def _links(m: list[Manifest]) -> None:
    del _pod(m)["enableServiceLinks"]


def _host_ipc(m: list[Manifest]) -> None:
    _pod(m)["hostIPC"] = True


def _default_grace(m: list[Manifest]) -> None:
    del _pod(m)["terminationGracePeriodSeconds"]


def _lost_log(m: list[Manifest]) -> None:
    del _container(m)["terminationMessagePolicy"]


def _disk_shm(m: list[Manifest]) -> None:
    next(v for v in _pod(m)["volumes"] if v["name"] == "shm")["emptyDir"] = {}


def _no_nccl_log(m: list[Manifest]) -> None:
    _container(m)["env"] = []


def _made_directory(m: list[Manifest]) -> None:
    del next(v for v in _pod(m)["volumes"] if v["name"] == "model")["hostPath"]["type"]


r = server_rules
BROKEN: list[tuple[Rule, str, Breaker]] = [
    (r.volume_mounts_name_volumes, HOST, _drop_volume),
    (r.names_are_unique, HOST, _two_containers),
    (r.object_names_are_dns_labels, HOST, _capital_name),
    (r.environment_names_are_set, HOST, _empty_variable),
    (r.extended_resources_are_whole_limits, HOST, _request_without_limit),
    (r.extended_resources_are_whole_limits, HOST, _half_gpu),
    (r.probes_have_one_handler, HOST, _two_handlers),
    (r.host_network_ports_are_equal, HOST, _other_host_port),
    (r.pod_restart_policy_fits, HOST, _never),
    (r.privileged_may_escalate, PRIVILEGED, _no_escalation),
    (r.process_namespace_is_one, HOST, _host_pid),
    (r.claims_are_declared, DRA, _undeclared_claim),
    (r.claims_are_declared, DRA, _no_claim_template),
    (r.deployment_selects_its_pods, PREFILL_DECODE, _deployment_selector),
    (r.rollout_can_move, HOST, _no_room),
    (r.subgroups_divide_the_group, HOST, _odd_subgroups),
    (r.indexed_backoff_fits, PREFLIGHT, _not_indexed),
    (r.group_name_is_short, HOST, _long_name),
    (r.group_name_is_short, HOST, _long_name_of_many),
    (r.leader_need_not_be_ready, HOST, _leader_ready),
    (r.service_does_not_shadow_the_group, HOST, _shadow),
    (r.services_select_pods, HOST, _selects_nothing),
    (r.services_select_pods, HOST, _no_target),
    (r.host_network_uses_cluster_dns, HOST, _node_resolver),
    (r.probe_ports_exist, HOST, _probe_elsewhere),
    (r.volumes_are_mounted, HOST, _forgotten_mount),
    (r.references_expand, HOST, _unset_reference),
    (r.group_variables_are_not_redefined, HOST, _own_index),
    (r.capabilities_have_no_prefix, HOST, _prefix),
    (r.ipc_lock_is_for_root, RESTRICTED, _locked_user),
    (r.networks_match_functions, SRIOV, _fewer_networks),
    (r.preflight_asks_all_at_once, PREFLIGHT, _one_by_one),
    (r.preflight_asks_all_at_once, PREFLIGHT, _same_node),
    (r.router_selects_leaders, PREFILL_DECODE, _roles_confused),
    (r.router_selects_leaders, PREFILL_DECODE, _router_port),
    (r.bootstrap_port_is_announced, PREFILL_DECODE, _other_bootstrap),
    (r.leader_and_worker_are_one, HOST, _drift),
    (r.entrypoint_is_the_image_s, HOST, _kept_command),
    (r.entrypoint_is_the_image_s, HOST, _no_arguments),
    (r.nothing_is_computed_by_hand, HOST, _kept_index),
    (r.nothing_is_computed_by_hand, HOST, _kept_tp),
    (r.group_starts_and_restarts_whole, HOST, _no_recreation),
    (r.probes_outlast_the_start, HOST, _guide_probe),
    (r.probes_outlast_the_start, HOST, _short_probe),
    (r.probes_outlast_the_start, HOST, _short_start),
    (r.probes_outlast_the_start, HOST, _liveness),
    (r.http_port_is_declared, HOST, _other_port),
    (r.pod_is_prepared, HOST, _pid_1),
    (r.pod_is_prepared, HOST, _links),
    (r.pod_is_prepared, HOST, _host_ipc),
    (r.pod_is_prepared, HOST, _default_grace),
    (r.pod_is_prepared, HOST, _lost_log),
    (r.shared_memory_is_a_volume, HOST, _disk_shm),
    (r.nccl_log_has_a_place, HOST, _no_nccl_log),
    (r.host_directories_must_exist, HOST, _made_directory),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_variant_keeps_the_rule(rule: Rule, manifests: list[Manifest]) -> None:
    assert list(rule(manifests)) == []


@pytest.mark.parametrize(
    ("rule", "variant", "breaker"),
    BROKEN,
    ids=[f"{rule.__name__}{breaker.__name__}" for rule, _variant, breaker in BROKEN],
)
def test_the_rule_catches_its_broken_manifest(rule: Rule, variant: str, breaker: Breaker) -> None:
    manifests = built(K8S / variant)
    assert list(rule(manifests)) == []
    breaker(manifests)
    assert list(rule(manifests)) != []


def test_every_rule_has_a_broken_manifest() -> None:
    assert {rule for rule, _variant, _breaker in BROKEN} == set(RULES)
    assert len(set(RULES)) == len(RULES)
