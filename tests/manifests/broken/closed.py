"""Manifests that leave something open, one each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.manifests.broken.reach import HOST, SRIOV, Case, container, of
from tests.manifests.rules import closed as rules

if TYPE_CHECKING:
    from tests.manifests.manifest_set import Manifest


def policy(m: list[Manifest]) -> Manifest:
    found: Manifest = of(m, "NetworkPolicy")["spec"]
    return found


def no_policy(m: list[Manifest]) -> None:
    m.remove(of(m, "NetworkPolicy"))


def open_to_all(m: list[Manifest]) -> None:
    policy(m)["ingress"].append({})


def closed_to_the_group(m: list[Manifest]) -> None:
    del policy(m)["ingress"][0]


def cut_off(m: list[Manifest]) -> None:
    del policy(m)["egress"][0]


def no_clients(m: list[Manifest]) -> None:
    del policy(m)["ingress"][1]


def no_dns(m: list[Manifest]) -> None:
    del policy(m)["egress"][1]


def renamed(m: list[Manifest]) -> None:
    policy(m)["podSelector"]["matchLabels"]["leaderworkerset.sigs.k8s.io/name"] = "other"


def writable(m: list[Manifest]) -> None:
    del container(m)["securityContext"]["readOnlyRootFilesystem"]


def no_home(m: list[Manifest]) -> None:
    container(m)["env"] = [one for one in container(m)["env"] if one["name"] != "HOME"]


def escalates(m: list[Manifest]) -> None:
    del container(m)["securityContext"]["allowPrivilegeEscalation"]


def unconfined(m: list[Manifest]) -> None:
    container(m)["securityContext"]["seccompProfile"]["type"] = "Unconfined"


def more(m: list[Manifest]) -> None:
    container(m)["securityContext"]["capabilities"]["add"].append("SYS_PTRACE")


CASES = (
    Case(rules.group_is_closed, SRIOV, no_policy, r"no NetworkPolicy selects"),
    Case(rules.group_is_closed, SRIOV, open_to_all, r"everybody reaches port 20002"),
    Case(rules.group_is_closed, SRIOV, closed_to_the_group, r"its own group does not reach port 41234"),
    Case(rules.group_is_closed, SRIOV, cut_off, r"it does not reach its own group on port 20000"),
    Case(rules.group_is_closed, SRIOV, no_clients, r"clients do not reach HTTP"),
    Case(rules.group_is_closed, SRIOV, no_dns, r"no DNS over UDP"),
    Case(rules.policies_select_pods, SRIOV, renamed, r"NetworkPolicy/sglang selects no pod"),
    Case(rules.containers_may_do_the_least, HOST, writable, r"root file system can be written"),
    Case(rules.containers_may_do_the_least, HOST, no_home, r"/tmp and /root are no volumes"),
    Case(rules.containers_may_do_the_least, HOST, escalates, r"may gain privileges"),
    Case(rules.containers_may_do_the_least, HOST, unconfined, r"no seccomp profile"),
    Case(rules.containers_may_do_the_least, HOST, more, r"more capabilities than IPC_LOCK"),
)
