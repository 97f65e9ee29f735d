"""The Pod Security level that a manifest and the README name is the one that it has."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import pytest

from tests.manifests.manifest_set import K8S, LEVELS, Manifest, PodTemplate, built, pod_templates, variants
from tests.manifests.pod_security import APPARMOR, level

if TYPE_CHECKING:
    from collections.abc import Callable

NAMED = re.compile(r"Pod Security level: (\w+)")


def _weakest(manifests: list[Manifest]) -> str:
    return min((level(pod) for pod in pod_templates(manifests)), key=LEVELS.index)


def _named(variant: str) -> str:
    for path in sorted((K8S / variant).glob("*.yaml")):
        found = NAMED.search(path.read_text())
        if found:
            return found.group(1)
    pytest.fail(f"{variant} names no Pod Security level")


def test_level_is_the_one_in_the_manifest(variant: str, manifests: list[Manifest]) -> None:
    assert _named(variant) == _weakest(manifests)


def test_level_is_the_one_in_the_readme(variant: str, manifests: list[Manifest]) -> None:
    row = re.search(rf"^\|.*`{re.escape(variant)}`.*\| (\w+) \|$", (K8S / "README.md").read_text(), re.MULTILINE)
    assert row is not None, f"no row for {variant}"
    assert row.group(1) == _weakest(manifests)


def test_router_is_restricted() -> None:
    manifests = built(K8S / "prefill-decode" / "shared-device-plugin")
    router = [pod for pod in pod_templates(manifests) if pod.kind == "Deployment"]
    assert [level(pod) for pod in router] == ["restricted"]


def _restricted_pod() -> PodTemplate:
    (pod,) = pod_templates(built(K8S / "roce-sriov" / "restricted"))
    return pod


def test_weakenings_are_seen() -> None:
    """From a restricted pod, one step at a time; the levels are those that a real server gave."""
    steps: list[tuple[str, str]] = []
    pod = _restricted_pod()
    assert level(pod) == "restricted"
    for field in ("hostNetwork", "hostIPC", "hostPID"):
        pod = _restricted_pod()
        pod.spec[field] = True
        steps.append((field, level(pod)))
    pod = _restricted_pod()
    pod.containers[0]["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
    steps.append(("IPC_LOCK", level(pod)))
    pod = _restricted_pod()
    pod.containers[0]["securityContext"]["privileged"] = True
    steps.append(("privileged", level(pod)))
    pod = _restricted_pod()
    pod.spec["volumes"].append({"name": "host", "hostPath": {"path": "/data"}})
    steps.append(("hostPath", level(pod)))
    pod = _restricted_pod()
    pod.containers[0]["ports"][0]["hostPort"] = 8100
    steps.append(("hostPort", level(pod)))
    pod = _restricted_pod()
    pod.containers[0]["readinessProbe"]["httpGet"]["host"] = "10.0.0.1"
    steps.append(("probe of another host", level(pod)))
    pod = _restricted_pod()
    pod = replace(pod, metadata={"annotations": {f"{APPARMOR}sglang": "unconfined"}})
    steps.append(("AppArmor unconfined", level(pod)))
    assert [name for name, got in steps if got != "privileged"] == []

    weaker: list[tuple[str, str]] = []
    for field in ("runAsNonRoot", "seccompProfile"):
        pod = _restricted_pod()
        del pod.spec["securityContext"][field]
        weaker.append((field, level(pod)))
    for field in ("allowPrivilegeEscalation", "capabilities"):
        pod = _restricted_pod()
        del pod.containers[0]["securityContext"][field]
        weaker.append((field, level(pod)))
    assert [name for name, got in weaker if got != "baseline"] == []


def test_unknown_security_field_is_not_passed_over() -> None:
    pod = _restricted_pod()
    pod.spec["securityContext"]["sysctls"] = [{"name": "kernel.msgmax", "value": "1"}]
    with pytest.raises(ValueError, match="sysctls"):
        level(pod)


def _adds_ipc_lock(pod: PodTemplate) -> bool:
    contexts = [container.get("securityContext", {}) for container in pod.containers]
    return any("IPC_LOCK" in context.get("capabilities", {}).get("add", []) for context in contexts)


#: The rows of the README's table of least privilege, by how they begin.
BEYOND_THE_LEAST: dict[str, Callable[[PodTemplate], bool]] = {
    "capability `IPC_LOCK`": _adds_ipc_lock,
    "host network": lambda pod: bool(pod.spec.get("hostNetwork")),
    "hostPath": lambda pod: any("hostPath" in volume for volume in pod.spec.get("volumes", [])),
    "`privileged`": lambda pod: any(one.get("securityContext", {}).get("privileged") for one in pod.containers),
}


def test_the_table_of_least_privilege_is_true() -> None:
    text = (K8S / "README.md").read_text()
    rows = text[text.index("| What | Which variants | Why |") :].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == len(BEYOND_THE_LEAST)
    for (begins, has), row in zip(BEYOND_THE_LEAST.items(), rows, strict=True):
        what, which = [cell.strip() for cell in row.strip("|").split("|")][:2]
        assert what.startswith(begins)
        patterns = re.findall(r"`([^`]+)`", which)
        named = {one for one in variants() if any(fnmatch(one, pattern) for pattern in patterns)}
        assert named == {one for one in variants() if any(map(has, pod_templates(built(K8S / one))))}, begins
