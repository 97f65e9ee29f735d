"""kubectl's own kustomize on the variants and on what users write over them."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.manifests.kubectl import kustomize
from tests.manifests.manifest_set import K8S, Manifest, built, serving_templates, variants
from tests.manifests.rules.silent import router_selects_leaders, services_select_pods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST, SITE = "roce-hostnetwork/shared-device-plugin", "example-site"
Path_ = tuple[Any, ...]


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Yield every scalar in ``value`` with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from leaves(inner, (*path, position))
    else:
        yield path, value


def _by_identity(manifests: list[Manifest]) -> dict[tuple[str, str], dict[Path_, Any]]:
    return {(m["kind"], m["metadata"]["name"]): dict(leaves(m)) for m in manifests}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the manifests to write overlays beside."""
    shutil.copytree(K8S, tmp_path / "k8s")
    return tmp_path / "k8s"


def test_variant_builds(variant: str) -> None:
    done = kustomize(K8S / variant)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("apiVersion:")


def test_example_site_changes_its_values_and_nothing_else() -> None:
    before, after = _by_identity(built(K8S / HOST)), _by_identity(built(K8S / SITE))
    assert before.keys() == after.keys()
    added, removed = set(), set()
    for identity, old in before.items():
        added |= after[identity].items() - old.items()
        removed |= old.items() - after[identity].items()
    pod = ("spec", "leaderWorkerTemplate", "workerTemplate", "spec")
    limits = (*pod, "containers", 0, "resources", "limits")
    assert removed == {
        ((*pod, "containers", 0, "image"), "registry.example/sglang-roce-entry:TAG"),
        ((*pod, "volumes", 1, "hostPath", "path"), "/data/models/DeepSeek-R1"),
        ((*limits, "rdma/hca_shared_devices_a"), 1),
    }
    assert added == {
        (("metadata", "namespace"), "inference"),
        ((*pod, "containers", 0, "image"), "harbor.inference.example/serving/sglang-roce-entry:0.5.6-1"),
        ((*pod, "volumes", 1, "hostPath", "path"), "/mnt/models/DeepSeek-V3.2"),
        ((*limits, "rdma/rdma_shared_device_eth"), 1),
    }


@pytest.mark.parametrize("group", ["roce-hostnetwork", "prefill-decode", "preflight"])
def test_privileged_replaces_the_plugin(group: str) -> None:
    text = kustomize(K8S / group / "privileged").stdout
    assert "rdma/" not in text
    plugin = kustomize(K8S / group / "shared-device-plugin").stdout
    requests = plugin.count("rdma/hca_shared_devices_a")
    assert requests > 0
    assert text.count("privileged: true") == requests
    assert text.count("path: /dev/infiniband") == requests


def test_privileged_refuses_a_manifest_without_the_resource(copied: Path) -> None:
    """A half-applied replacement would be privileged and still wait for a plugin's resource."""
    manifest = copied / HOST / "sglang.yaml"
    manifest.write_text(manifest.read_text().replace("hca_shared_devices_a", "renamed"))
    done = kustomize(copied / "roce-hostnetwork" / "privileged")
    assert done.returncode != 0
    assert "hca_shared_devices_a" in done.stderr


@pytest.mark.parametrize("variant", [HOST, "roce-hostnetwork/privileged", "roce-sriov/restricted", "dra/sriov"])
def test_name_prefix_reaches_the_selector(copied: Path, variant: str) -> None:
    overlay = copied / "second"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(f"namePrefix: second-\nresources: [../{variant}]\n")
    manifests = built(overlay)
    assert {m["metadata"]["name"] for m in manifests if m["kind"] == "LeaderWorkerSet"} == {"second-sglang"}
    assert list(services_select_pods(manifests)) == []


def test_name_prefix_is_the_fault_that_it_is_held_for(copied: Path) -> None:
    """Without the component the prefixed Service selects nothing: the rule sees it."""
    (copied / HOST / "kustomization.yaml").write_text("resources: [sglang.yaml]\n")
    overlay = copied / "second"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(f"namePrefix: second-\nresources: [../{HOST}]\n")
    assert list(services_select_pods(built(overlay))) == ["Service/second-sglang-leader selects no pod"]


def test_to_change_is_little() -> None:
    """Image, model and RDMA resource stand once in each pod that serves, marked where they stand."""
    for folder in (HOST, "roce-sriov/ipc-lock", "dra/dranet", "prefill-decode/shared-device-plugin"):
        text = (K8S / folder / "sglang.yaml").read_text()
        manifests = built(K8S / folder)
        groups = len(serving_templates(manifests))
        marked = [line for line in text.splitlines() if "# CHANGE" in line]
        images = json.dumps(manifests).count('"registry.example/sglang-roce-entry:TAG"')
        assert len([line for line in marked if "image:" in line]) == images
        models = [line for line in marked if "path: /data/models" in line or "claimName:" in line]
        assert len(models) == groups


def test_readme_names_what_exists() -> None:
    text = (K8S / "README.md").read_text()
    applied = re.findall(r"kubectl apply -f (\S+)", text)
    assert applied != []
    assert [path for path in applied if not (K8S / path).is_file()] == []
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (K8S / link).exists()] == []
    described = set(re.findall(r"^\|[^|]*\| `([^`]+)` \|[^|]*\| [a-z]+ \|$", text, re.MULTILINE))
    assert described == set(variants())


def test_prefix_keeps_the_router_s_selectors(copied: Path) -> None:
    """They go by labels, not by the set's name."""
    overlay = copied / "second"
    overlay.mkdir()
    variant = "prefill-decode/shared-device-plugin"
    (overlay / "kustomization.yaml").write_text(f"namePrefix: second-\nresources: [../{variant}]\n")
    assert list(router_selects_leaders(built(overlay))) == []
