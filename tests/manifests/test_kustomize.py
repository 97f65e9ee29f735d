"""kubectl's own kustomize on the variants and on what users write over them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.manifests.kubectl import kustomize
from tests.manifests.manifest_set import K8S, Manifest, built, parse, pod_templates, serving_templates
from tests.manifests.rules.silent import router_selects_leaders, services_select_pods

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
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


SITE_PATH = "../roce-hostnetwork/shared-device-plugin"
IMAGES = {
    "registry.example/sglang-roce-entry:TAG",
    "harbor.inference.example/serving/sglang-roce-entry:0.1.0-sglang0.5.15",
}


def _changes(before: list[Manifest], after: list[Manifest]) -> tuple[set[Any], set[Any]]:
    """Return the values that went and those that came, by their last key; without the namespace."""
    old, new = _by_identity(before), _by_identity(after)
    assert old.keys() == new.keys()
    went: set[Any] = set()
    came: set[Any] = set()
    for identity, leaves_before in old.items():
        went |= {(path[-1], value) for path, value in leaves_before.items() - new[identity].items()}
        came |= {(path[-1], value) for path, value in new[identity].items() - leaves_before.items()}
    return went, came - {("namespace", "inference")}


def _site(copied: Path, variant: str, edit: Callable[[str], str] = str) -> subprocess.CompletedProcess[str]:
    """Build the example with another variant under it, edited as its comment says."""
    file = copied / SITE / "kustomization.yaml"
    text = file.read_text()
    assert text.count(SITE_PATH) == 1
    file.write_text(edit(text.replace(SITE_PATH, f"../{variant}")))
    return kustomize(copied / SITE)


def _without_the_plugin(text: str) -> str:
    site = yaml.safe_load(text)
    site["patches"] = [patch for patch in site["patches"] if "limits/rdma~1" not in patch["patch"]]
    assert len(site["patches"]) == 1
    return yaml.safe_dump(site)


def _claim_and_functions(text: str) -> str:
    return text.replace("hostPath/path", "persistentVolumeClaim/claimName").replace(
        "rdma~1hca_shared_devices_a", "nvidia.com~1roce_vf"
    )


@pytest.mark.parametrize("variant", [HOST, "prefill-decode/shared-device-plugin"])
def test_example_site_changes_its_values_and_nothing_else(copied: Path, variant: str) -> None:
    done = _site(copied, variant)
    assert done.returncode == 0, done.stderr
    went, came = _changes(built(K8S / variant), parse(done.stdout))
    assert {value for _key, value in went | came} == {
        *IMAGES, "/data/models/DeepSeek-R1", "/mnt/models/DeepSeek-V3.2", 1,
    }  # fmt: skip
    assert ("rdma/hca_shared_devices_a", 1) in went
    assert ("rdma/rdma_shared_device_eth", 1) in came
    assert {("image", image) for image in IMAGES} <= went | came


def test_example_site_on_the_preflight(copied: Path) -> None:
    done = _site(copied, "preflight/shared-device-plugin")
    assert done.returncode == 0, done.stderr
    went, came = _changes(built(K8S / "preflight/shared-device-plugin"), parse(done.stdout))
    assert {key for key, _value in went} == {"image", "rdma/hca_shared_devices_a"}
    assert {key for key, _value in came} == {"image", "rdma/rdma_shared_device_eth"}


@pytest.mark.parametrize(
    ("variant", "edit", "place"),
    [
        ("roce-hostnetwork/privileged", _without_the_plugin, "rdma~1hca_shared_devices_a"),
        ("prefill-decode/privileged", _without_the_plugin, "rdma~1hca_shared_devices_a"),
        ("preflight/privileged", _without_the_plugin, "rdma~1hca_shared_devices_a"),
        ("roce-sriov/ipc-lock", _claim_and_functions, "volumes/1/hostPath/path"),
        ("roce-sriov/restricted", _claim_and_functions, "volumes/1/hostPath/path"),
    ],
)
def test_example_site_fails_where_it_does_not_fit_and_says_where(
    copied: Path, variant: str, edit: Callable[[str], str], place: str
) -> None:
    """Nothing is half applied; with the edits of its comment it fits."""
    original = (copied / SITE / "kustomization.yaml").read_text()
    refused = _site(copied, variant)
    assert refused.returncode != 0
    assert place in refused.stderr
    (copied / SITE / "kustomization.yaml").write_text(original)
    done = _site(copied, variant, edit)
    assert done.returncode == 0, done.stderr
    assert "harbor.inference.example" in done.stdout
    assert "registry.example" not in done.stdout


@pytest.mark.parametrize(
    ("preflight", "server"),
    [
        ("preflight/shared-device-plugin", HOST),
        ("preflight/privileged", "roce-hostnetwork/privileged"),
        ("preflight/sriov", "roce-sriov/ipc-lock"),
        ("preflight/dra", "dra/dranet"),
    ],
)
def test_preflight_asks_for_what_the_server_asks_for(preflight: str, server: str) -> None:
    """Same view of the node, same number of nodes: otherwise its answer is about another pod."""
    (asking,) = pod_templates(built(K8S / preflight))
    (serving,) = pod_templates(built(K8S / server))
    for field in ("hostNetwork", "dnsPolicy", "tolerations", "securityContext", "resourceClaims"):
        assert asking.spec.get(field) == serving.spec.get(field), field
    for field in ("resources", "securityContext"):
        assert asking.containers[0][field] == serving.containers[0][field], field
    assert asking.metadata.get("annotations") == serving.metadata.get("annotations")
    size = serving.owner["spec"]["leaderWorkerTemplate"]["size"]
    assert asking.owner["spec"]["completions"] == asking.owner["spec"]["parallelism"] == size


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


def test_prefix_keeps_the_router_s_selectors(copied: Path) -> None:
    """They go by labels, not by the set's name."""
    overlay = copied / "second"
    overlay.mkdir()
    variant = "prefill-decode/shared-device-plugin"
    (overlay / "kustomization.yaml").write_text(f"namePrefix: second-\nresources: [../{variant}]\n")
    assert list(router_selects_leaders(built(overlay))) == []
