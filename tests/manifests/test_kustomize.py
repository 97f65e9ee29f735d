"""kubectl's own kustomize on the variants and on what users write over them."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.manifests.kubectl import kustomize
from tests.manifests.manifest_set import (
    K8S,
    Manifest,
    built,
    parse,
    pod_templates,
    rehearses,
    serving_templates,
    variants,
)
from tests.manifests.rules import RULES
from tests.manifests.rules.silent import services_select_pods
from tests.manifests.rules.walk import of_kind

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
SITE_IMAGE = "harbor.inference.example/serving/sglang-roce-entry:0.1.0-sglang0.5.15"


def _as_at_the_site(manifests: list[Manifest]) -> list[Manifest]:
    """Return what the example is to make of a variant: its values changed, and nothing else."""
    for pod in pod_templates(manifests):
        server = pod.containers[0]
        server["image"] = SITE_IMAGE
        limits = server["resources"]["limits"]
        if "rdma/hca_shared_devices_a" in limits:
            limits["rdma/rdma_shared_device_eth"] = limits.pop("rdma/hca_shared_devices_a")
        if pod.kind == "Job":
            pod.owner["spec"] |= {"completions": 4, "parallelism": 4}
        if pod.kind == "LeaderWorkerSet":
            pod.owner["spec"]["leaderWorkerTemplate"]["size"] = 4
            server["env"].append({"name": "HF_HUB_OFFLINE", "value": "1"})
            pod.spec["volumes"][1]["hostPath"]["path"] = "/mnt/models/DeepSeek-V3.2"
        if pod.name == "LeaderWorkerSet/sglang":
            server["args"][server["args"].index("--mem-fraction-static") :] = [
                *("--mem-fraction-static", "0.88", "--enable-metrics")
            ]
    for manifest in manifests:
        manifest["metadata"]["namespace"] = "inference"
        for subject in manifest.get("subjects", []):
            subject["namespace"] = "inference"
    return manifests


def _site(copied: Path, variant: str, edit: Callable[[str], str] = str) -> subprocess.CompletedProcess[str]:
    """Build the example with another variant under it, edited as its comment says."""
    file = copied / SITE / "kustomization.yaml"
    text = file.read_text()
    assert text.count(SITE_PATH) == 1
    file.write_text(edit(text.replace(SITE_PATH, f"../{variant}")))
    return kustomize(copied / SITE)


def _without_the_plugin(text: str) -> str:
    site = yaml.safe_load(text)
    kept = [patch for patch in site["patches"] if "limits/rdma~1" not in patch["patch"]]
    assert len(kept) == len(site["patches"]) - 2
    return yaml.safe_dump(site | {"patches": kept})


def _claim_and_functions(text: str) -> str:
    return text.replace("hostPath/path", "persistentVolumeClaim/claimName").replace(
        "rdma~1hca_shared_devices_a", "nvidia.com~1roce_vf"
    )


@pytest.mark.parametrize(
    "variant", [HOST, "prefill-decode/shared-device-plugin", "preflight/shared-device-plugin"]
)
def test_example_site_changes_its_values_and_nothing_else(copied: Path, variant: str) -> None:
    done = _site(copied, variant)
    assert done.returncode == 0, done.stderr
    assert parse(done.stdout) == _as_at_the_site(built(K8S / variant))


def test_example_site_works_where_its_comment_puts_it(tmp_path: Path) -> None:
    """Copied out of the checkout, with a path back to it; a checkout elsewhere is not needed."""
    site = tmp_path / "my-site"
    shutil.copytree(K8S / SITE, site)
    file = site / "kustomization.yaml"
    back = os.path.relpath((K8S / SITE / SITE_PATH).resolve(), site)
    file.write_text(file.read_text().replace(SITE_PATH, back))
    assert built(site) == built(K8S / SITE)


#: How a user changes a line that is marked, by what stands before the mark.
CHANGES = {
    r"image: registry\.example/sglang-roce-entry:TAG$": "image: harbor.example/ai/sglang:7",
    r"newName: registry\.example/sglang-roce-entry$": "newName: harbor.example/ai/sglang",
    r"newTag: TAG$": 'newTag: "7"',
    r"(path|value): /data/models/DeepSeek-R1$": r"\1: /mnt/m",
    r"claimName: sglang-model$": "claimName: weights",
    r"rdma/hca_shared_devices_a: 1$": "rdma/ib: 1",
    r"amd\.com/nic: 8$": "rdma/ib: 1",
    r"nvidia\.com([/~]1?)roce_vf(: 4)?$": r"nvidia.com\1vf\2",
    r"(networks|netAttachDefName): roce-vf": r"\1: vf",
    r"(completions|parallelism|value): 2$": r"\1: 5",
    r'value: "2"$': 'value: "5"',
    r"newName: harbor.inference": "newName: harbor.other",
}


def test_every_change_that_is_marked_can_be_made(copied: Path, variant: str) -> None:
    """In the variant's own folder, or where that marks nothing or names the base, in the base too."""
    own = sorted((copied / variant).glob("*.yaml"))
    text = "".join(path.read_text() for path in own)
    bases = re.findall(r"[Cc]hange .*? in (\.\.\S*\.yaml)", text.replace("\n# ", " "))
    files = [*own, *((copied / variant / base).resolve() for base in bases)]
    made = 0
    for file in files:
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines):
            before, mark, after = line.partition("  # CHANGE")
            excepted = re.match(r", except for (\S+)", after)
            elsewhere = excepted is not None and (file.parent / excepted[1]).resolve() == copied / variant
            if not mark or not before.strip() or elsewhere:
                continue
            made += 1
            changed = [re.sub(was, now, before) for was, now in CHANGES.items() if re.search(was, before)]
            assert len(changed) == 1, (file, line)
            lines[number] = changed[0]
        file.write_text("\n".join(lines) + "\n")
    done = kustomize(copied / variant)
    assert (done.returncode, done.stderr) == (0, "")
    if variant != SITE:
        assert made >= 2
        for old in ("registry.example", ":TAG", "/data/models", "sglang-model", "hca_shared_devices_a"):
            assert old not in done.stdout
        assert "completions: 2" not in done.stdout


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


def _claims(manifests: list[Manifest]) -> list[Manifest]:
    """Return what the claims of the variant are for: classes and requests, without names of their own."""
    classes = {m["metadata"]["name"]: m["spec"] for m in of_kind(manifests, "DeviceClass")}
    claims = [template["spec"]["spec"]["devices"] for template in of_kind(manifests, "ResourceClaimTemplate")]
    for request in itertools.chain.from_iterable(claim["requests"] for claim in claims):
        request["exactly"]["deviceClassName"] = classes[request["exactly"]["deviceClassName"]]
    return claims


@pytest.mark.parametrize(
    ("preflight", "server"),
    [
        ("preflight/shared-device-plugin", HOST),
        ("preflight/privileged", "roce-hostnetwork/privileged"),
        ("preflight/sriov", "roce-sriov/ipc-lock"),
        ("preflight/dra", "dra/dranet"),
        ("rehearsal/shared-device-plugin", HOST),
        ("rehearsal/privileged", "roce-hostnetwork/privileged"),
        ("rehearsal/sriov", "roce-sriov/ipc-lock"),
        ("rehearsal/dra", "dra/dranet"),
    ],
)
def test_preflight_asks_for_what_the_server_asks_for(preflight: str, server: str) -> None:
    """Same view of the node, same number of nodes: otherwise its answer is about another pod."""
    (asking,) = pod_templates(built(K8S / preflight))
    (serving,) = pod_templates(built(K8S / server))
    assert _claims(built(K8S / preflight)) == _claims(built(K8S / server))
    for field in ("hostNetwork", "dnsPolicy", "tolerations", "securityContext"):
        assert asking.spec.get(field) == serving.spec.get(field), field
    for field in ("resources", "securityContext"):
        assert asking.containers[0][field] == serving.containers[0][field], field
    assert asking.metadata.get("annotations") == serving.metadata.get("annotations")
    size = serving.owner["spec"]["leaderWorkerTemplate"]["size"]
    assert asking.owner["spec"]["completions"] == asking.owner["spec"]["parallelism"] == size


@pytest.mark.parametrize("group", ["roce-hostnetwork", "prefill-decode", "preflight", "rehearsal"])
def test_privileged_replaces_the_plugin(group: str) -> None:
    text = kustomize(K8S / group / "privileged").stdout
    assert "rdma/" not in text
    plugin = kustomize(K8S / group / "shared-device-plugin").stdout
    requests = plugin.count("rdma/hca_shared_devices_a")
    assert requests > 0
    assert text.count("privileged: true") == requests
    assert text.count("path: /dev/infiniband") == requests


def test_a_rehearsal_of_the_group_is_the_server_but_for_its_first_argument() -> None:
    (serving,), (rehearsing,) = (
        serving_templates(built(K8S / one)) for one in (HOST, "rehearsal/leaderworkerset")
    )
    assert rehearsing.containers[0]["args"].pop(0) == "--rehearse"
    assert rehearsing.spec == serving.spec
    policies = [one.owner["spec"]["leaderWorkerTemplate"].pop("restartPolicy") for one in (serving, rehearsing)]
    assert policies == ["RecreateGroupOnPodRestart", "None"]
    assert rehearsing.owner["spec"] == serving.owner["spec"]
    assert rehearsing.owner["metadata"]["name"] != serving.owner["metadata"]["name"]


def test_a_disaggregated_set_is_the_two_groups_in_one() -> None:
    """Nothing but the two LeaderWorkerSets differs, and each role is the whole of one."""
    apart, together = (
        built(K8S / "prefill-decode" / one) for one in ("shared-device-plugin", "disaggregated-set")
    )
    (both,) = of_kind(together, "DisaggregatedSet")
    groups = {group["metadata"]["name"]: group["spec"] for group in of_kind(apart, "LeaderWorkerSet")}
    assert {f"sglang-{role['name']}": role["spec"] for role in both["spec"]["roles"]} == groups
    assert [m for m in together if m is not both] == [m for m in apart if m["kind"] != "LeaderWorkerSet"]


def test_the_number_of_nodes_is_the_size_of_the_group(variant: str) -> None:
    for pod in pod_templates(built(K8S / variant)):
        sizes = [e["value"] for e in pod.containers[0].get("env", []) if e["name"] == "SGLANG_ROCE_GROUP_SIZE"]
        assert sizes == ([str(pod.owner["spec"]["completions"])] if pod.kind == "Job" and rehearses(pod) else [])


def test_privileged_refuses_a_manifest_without_the_resource(copied: Path) -> None:
    """A half-applied replacement would be privileged and still wait for a plugin's resource."""
    manifest = copied / HOST / "sglang.yaml"
    manifest.write_text(manifest.read_text().replace("hca_shared_devices_a", "renamed"))
    done = kustomize(copied / "roce-hostnetwork" / "privileged")
    assert done.returncode != 0
    assert "hca_shared_devices_a" in done.stderr


RENAMED = "namePrefix: second-\nnameSuffix: -b\nnamespace: other\n"


def _overlay(copied: Path, variant: str, text: str = RENAMED) -> list[Manifest]:
    """Build ``variant`` under an overlay of a user's."""
    overlay = copied / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(f"{text}resources: [../{variant}]\n")
    return built(overlay)


def test_a_renamed_set_holds_together(copied: Path, variant: str) -> None:
    """Prefix, suffix and namespace reach every name, and every place that repeats one."""
    manifests = _overlay(copied, variant)
    names = [manifest["metadata"]["name"] for manifest in manifests]
    assert [name for name in names if not re.fullmatch(r"second-.+-b", name)] == []
    assert [sentence for rule in RULES for sentence in rule(manifests)] == []


@pytest.mark.parametrize(
    ("variant", "kind", "said"),
    [
        (HOST, "Service", "Service/second-sglang-leader-b selects no pod"),
        ("dra/sriov", "LeaderWorkerSet", "no ResourceClaimTemplate for claim 'roce'"),
        ("preflight/dra", "Job", "no ResourceClaimTemplate for claim 'roce'"),
        ("dra/dranet", "ResourceClaimTemplate", "no claim asks for DeviceClass second-roce-nic-b"),
        ("dra/compute-domain", "LeaderWorkerSet", "no ResourceClaimTemplate for claim 'nvlink'"),
        ("dra/compute-domain", "ComputeDomain", "no ResourceClaimTemplate for claim 'nvlink'"),
    ],
)
def test_a_reference_that_kustomize_is_not_told_of_is_seen(
    copied: Path, variant: str, kind: str, said: str
) -> None:
    """Each entry of the configuration is needed: without it, a rule speaks."""
    for file in (copied / "components").glob("*/name-reference.yaml"):
        configuration = yaml.safe_load(file.read_text())
        for reference in configuration["nameReference"]:
            reference["fieldSpecs"] = [spec for spec in reference["fieldSpecs"] if spec["kind"] != kind]
        kept = [reference for reference in configuration["nameReference"] if reference["fieldSpecs"]]
        file.write_text(yaml.safe_dump({"nameReference": kept}))
    manifests = _overlay(copied, variant)
    sentences = [sentence for rule in RULES for sentence in rule(manifests)]
    assert any(said in sentence for sentence in sentences), sentences


@pytest.mark.parametrize("overlay", ["", RENAMED], ids=["as it is", "renamed"])
def test_deleting_a_preflight_takes_nothing_of_a_server(copied: Path, overlay: str) -> None:
    """``kubectl delete -k``: cluster-wide classes and the claims of its namespace stay."""
    owned: dict[str, set[tuple[str, str]]] = {}
    for variant in variants():
        manifests = _overlay(copied, variant, overlay)
        owned[variant] = {(m["kind"], m["metadata"]["name"]) for m in manifests}
        shutil.rmtree(copied / "overlay")
    preflights = [variant for variant in owned if variant.startswith(("preflight/", "rehearsal/"))]
    assert len(preflights) == 9
    for preflight, server in itertools.product(preflights, owned.keys() - set(preflights)):
        assert owned[preflight] & owned[server] == set(), (preflight, server)


def test_name_prefix_is_the_fault_that_it_is_held_for(copied: Path) -> None:
    """Without the component the prefixed Service selects nothing: the rule sees it."""
    (copied / HOST / "kustomization.yaml").write_text("resources: [sglang.yaml]\n")
    manifests = _overlay(copied, HOST, "namePrefix: second-\n")
    assert list(services_select_pods(manifests)) == ["Service/second-sglang-leader selects no pod"]


def test_nvlink_comes_beside_the_nics_of_a_variant(copied: Path) -> None:
    """As the head of dra/compute-domain says: both claims, each with its template."""
    manifests = _overlay(copied, "dra/dranet", "components: [../components/compute-domain]\n")
    (pod,) = serving_templates(manifests)
    assert [claim["name"] for claim in pod.spec["resourceClaims"]] == ["roce", "nvlink"]
    assert pod.containers[0]["resources"]["claims"] == [{"name": "roce"}, {"name": "nvlink"}]
    assert [sentence for rule in RULES for sentence in rule(manifests)] == []


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
