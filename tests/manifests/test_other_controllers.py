"""Each manifest for another controller: rendered, fitting, and every one of its pods finds its place."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.evidence import lines_of
from tests.manifests.controllers import Member, manifests, members
from tests.manifests.injection import container_arguments, gpu_count
from tests.manifests.manifest_set import K8S, Manifest, built, parse
from tests.manifests.nodes import Node, Outcome, launcher, node_of
from tests.manifests.pod_security import level
from tests.manifests.rules import closed, refused, silent
from tests.manifests.test_schemas import KUBERNETES_VERSIONS, kubernetes_faults

if TYPE_CHECKING:
    from pathlib import Path

OURS = ("--leader-address", "--group-size", "--worker-index")
#: Whose pods tell without any line of the manifest's, and whose tell nothing at all.
BELIEVED, SILENT = "role-based-group", "stateful-set"
each_file = pytest.mark.parametrize("path", manifests(), ids=lambda path: path.stem)


def test_every_controller_of_the_table_has_its_manifest() -> None:
    table = re.findall(r"^\| .*\| `([\w-]+\.yaml)` \| (.+) \|$", (K8S / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in table) == [path.name for path in manifests()]
    for name, fate in table:
        (said,) = re.findall(r"^# When one pod dies: (.+?)(?:\n#\n)", _text(name), re.MULTILINE | re.DOTALL)
        said = " ".join(said.replace("\n#", " ").split())
        # In bold where SGLang's group does not come back by itself.
        assert ("SGLang cannot take back" in said and "kubectl delete pod" in said) == fate.startswith("**"), name


@each_file
def test_the_pods_that_it_deletes_are_its_own(path: Path) -> None:
    text = " ".join(path.read_text().replace("\n#", " ").split())
    for label, value in re.findall(r"kubectl delete pod -l ([\w./]+)=(\w+)", text):
        for member in members(parse(path.read_text())):
            assert member.pod.labels[label] == value


def _text(name: str) -> str:
    return (K8S / "other-controllers" / name).read_text()


@each_file
def test_it_renders_as_it_is(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / path.name)
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{path.name}]\n")

    def key(manifest: Manifest) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    assert sorted(built(tmp_path), key=key) == sorted(parse(path.read_text()), key=key)


@each_file
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_pods_and_kinds_of_kubernetes_fit(path: Path, version: str) -> None:
    documents = parse(path.read_text())
    own = [one for one in documents if one["apiVersion"] in {"v1", "apps/v1", "batch/v1"}]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": member.pod.spec}
        for member in members(documents)
    ]
    assert len(pods) == 2
    assert [fault for one in (*own, *pods) for fault in kubernetes_faults(one, version)] == []


#: About what LeaderWorkerSet, preflight and router have, or about a whole variant.
ELSEWHERE = {silent.references_expand, silent.preflight_asks_all_at_once, silent.services_select_pods}


@each_file
def test_the_rules_of_pods_hold(path: Path) -> None:
    documents = parse(path.read_text())
    for member in members(documents):
        spec = member.pod.spec
        kind = "Job" if spec.get("restartPolicy") == "Never" else "StatefulSet"
        template = {"metadata": {"labels": {"app.kubernetes.io/name": "sglang"}}, "spec": spec}
        owner = {"kind": kind, "metadata": {"name": "sglang"}, "spec": {"template": template}}
        services = [one for one in documents if one["kind"] == "Service"]
        rules = [
            rule
            for rule in (*refused.RULES, *silent.RULES, closed.containers_may_do_the_least)
            if rule not in ELSEWHERE
        ]
        assert [sentence for rule in rules for sentence in rule([owner, *services])] == []
        assert level(member.pod) == "privileged"
        assert "Pod Security level: privileged" in path.read_text()


def _run(member: Member, nodes: dict[str, Node], *options: str) -> Outcome:
    node = node_of(member.pod, nodes)
    node.place(member.pod, member.leader, member.index)
    environment = member.environment()
    arguments = container_arguments(member.pod.containers[0], environment)
    return launcher(str(node.folder), [*options, *arguments], environment, "--dry-run=json")


@each_file
def test_every_pod_finds_its_place(path: Path, nodes: dict[str, Node]) -> None:
    found = members(parse(path.read_text()))
    assert [member.index for member in found] == [0, 1]
    for member in found:
        outcome = _run(member, nodes, "--strict")
        assert outcome.code == 0, outcome.stderr
        source = "RBG_LWP_*" if path.stem == BELIEVED else "settings"
        assert outcome.plan["identity"] == {
            "leader": member.leader,
            "size": len(found),
            "index": member.index,
            "source": source,
        }
        assert [one["code"] for one in outcome.plan["problems"] if one["severity"] == "error"] == []
        argv = outcome.plan["argv"]
        assert argv[argv.index("--tp-size") + 1] == str(gpu_count(member.pod.containers[0]) * len(found))
        assert argv[argv.index("--dist-init-addr") + 1] == f"{member.leader}:20000"


def _without_its_lines(member: Member) -> None:
    container = member.pod.containers[0]
    container.pop("env", None)
    for flag in OURS:
        if flag in container["args"]:
            position = container["args"].index(flag)
            del container["args"][position : position + 2]


@each_file
def test_without_its_lines_it_is_warned_of(path: Path, nodes: dict[str, Node]) -> None:
    (_, member) = members(parse(path.read_text()))
    written = " ".join(member.pod.containers[0]["args"][:6])
    _without_its_lines(member)
    outcome = _run(member, nodes)
    codes = [one["code"] for one in outcome.plan["problems"]]
    assert ("GROUP_SUSPECTED" in codes) == (path.stem not in {BELIEVED, SILENT}), outcome.stderr
    assert outcome.plan["identity"]["size"] == (2 if path.stem == BELIEVED else 1)
    if "GROUP_SUSPECTED" in codes and written.startswith(OURS[0]):
        hint = lines_of(member.environment()) or ""
        general = {
            "LEADER_CLIQUE": "leader",
            "JOB-TASK-0.JOB": "sglang-node-0.sglang",
            "VC_TASK_NUM": "VC_NODE_NUM",
        }
        for placeholder, here in general.items():
            hint = hint.replace(placeholder, here)
        assert written in hint


def test_what_is_put_behind_cannot_be_referred_to_in_env(nodes: dict[str, Node]) -> None:
    (_, member) = members(parse(_text("indexed-job.yaml")))
    for entry in member.pod.containers[0]["env"]:
        if "valueFrom" in entry:
            del entry["valueFrom"]
            entry["value"] = "$(JOB_COMPLETION_INDEX)"
    outcome = _run(member, nodes)
    assert outcome.code == 78
    assert "--worker-index $(JOB_COMPLETION_INDEX) in args" in outcome.stdout + outcome.stderr
