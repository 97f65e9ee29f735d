"""Every document against the schemas of the API servers that would receive it."""

from __future__ import annotations

import copy
import functools
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.manifest_set import (
    K8S,
    Manifest,
    built,
    group_templates,
    leader_worker_sets,
    parse,
    plain_files,
)

SCHEMAS = Path(__file__).parent / "schemas"
LWS_VERSIONS = ("v0.6.0", "v0.10.0")
# The oldest Kubernetes that the manifests name, one in between, DRA's first, the newest schemas.
KUBERNETES_VERSIONS = ("1.29", "1.32", "1.34", "1.37")
DRA_SINCE = (1, 34)
COMPUTE_DOMAINS_SINCE = (1, 32)
HOST, DISAGGREGATED = "roce-hostnetwork/shared-device-plugin", "prefill-decode/disaggregated-set"
COMPUTE_DOMAIN = "dra/compute-domain"


@functools.cache
def _lws_schema(version: str, kind: str = "leaderworkerset") -> dict[str, Any]:
    path = SCHEMAS / f"{kind}-{version}.strict.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def custom_faults(group: Manifest, version: str) -> list[str]:
    """Return what the CustomResourceDefinition of its kind and ``version`` has against ``group``."""
    validator = import_module("jsonschema").Draft202012Validator  # its types are another package
    errors = validator(_lws_schema(version, group["kind"].lower())).iter_errors(group)
    return [f"{error.json_path}: {error.message}" for error in errors]


def kubernetes_faults(manifest: Manifest, version: str) -> list[str]:
    """Return the first thing that Kubernetes ``version``'s own schema has against ``manifest``."""
    kubernetes_validate = import_module("kubernetes_validate")  # it carries no types

    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    return []


def as_stateful_sets(group: Manifest) -> list[Manifest]:
    """Return the StatefulSets that LWS makes of a group, as far as a schema looks at them."""
    name = group["metadata"]["name"]
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": name},
            "spec": {
                "serviceName": name,
                "selector": {"matchLabels": {"leaderworkerset.sigs.k8s.io/name": name}},
                "template": template,
            },
        }
        for template in group_templates(group)
    ]


def oldest(manifests: list[Manifest]) -> tuple[int, int]:
    """Return the oldest Kubernetes that a variant says it needs: a ComputeDomain's driver makes the claims itself."""
    needs_dra = any(m["apiVersion"] == "resource.k8s.io/v1" for m in manifests)
    claims = any(m["kind"] == "ComputeDomain" for m in manifests)
    return DRA_SINCE if needs_dra else COMPUTE_DOMAINS_SINCE if claims else (1, 29)


@pytest.mark.parametrize("version", LWS_VERSIONS)
def test_groups_fit_leader_worker_set(manifests: list[Manifest], version: str) -> None:
    faults = [fault for group in leader_worker_sets(manifests) for fault in custom_faults(group, version)]
    assert faults == []


def test_a_disaggregated_set_fits_its_own_schema() -> None:
    (both,) = [m for m in built(K8S / DISAGGREGATED) if m["kind"] == "DisaggregatedSet"]
    assert custom_faults(both, "v0.10.0") == []
    both["spec"]["roles"][0]["spec"]["leaderWorkerTemplate"]["sizes"] = 2
    assert custom_faults(both, "v0.10.0") != []


def test_a_compute_domain_fits_its_own_schema() -> None:
    (domain,) = [m for m in built(K8S / COMPUTE_DOMAIN) if m["kind"] == "ComputeDomain"]
    assert custom_faults(domain, "v1beta1") == []
    domain["spec"]["channel"]["resourceClaimTemplateName"] = "sglang-nvlink"
    assert custom_faults(domain, "v1beta1") != []


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_documents_fit_kubernetes(manifests: list[Manifest], version: str, variant: str) -> None:
    kubernetes_validate = import_module("kubernetes_validate")  # it carries no types

    faults = []
    for manifest in manifests:
        groups = list(leader_worker_sets([manifest]))
        parts = [part for group in groups for part in as_stateful_sets(group)] if groups else [manifest]
        parts = [part for part in parts if part["kind"] != "ComputeDomain"]
        for part in parts:
            try:
                faults += kubernetes_faults(part, version)
            except kubernetes_validate.SchemaNotFoundError as error:
                faults.append(error.message)
    major, minor = version.split(".")
    if (int(major), int(minor)) >= oldest(manifests):
        assert faults == [], variant
    else:  # what the README says it does not run on
        assert faults != []


@pytest.mark.parametrize("path", plain_files(), ids=lambda path: "-".join(path.parts[-3:-1]))
def test_plain_file_is_what_kustomize_sends(path: Path) -> None:
    """``kubectl apply -f`` on the file and ``-k`` on its folder send the same documents."""

    def key(manifest: Manifest) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    plain = parse(path.read_text())
    assert len(plain) == len({key(manifest) for manifest in plain})
    assert sorted(plain, key=key) == sorted(built(path.parent), key=key)


def test_plain_files_have_no_anchors() -> None:
    """An alias does not survive every tool that rewrites YAML; none is needed."""
    import yaml

    for path in plain_files():
        events = list(yaml.parse(path.read_text()))
        assert not [event for event in events if isinstance(event, yaml.AliasEvent)], path


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("startupPolicy",), "LeaderFirst"),
        (("leaderWorkerTemplate", "sizes"), 2),
        (("leaderWorkerTemplate", "restartPolicy"), "Always"),
        (("leaderWorkerTemplate", "workerTemplate", "spec", "hostNetwrok"), True),
        (("leaderWorkerTemplate", "workerTemplate", "spec", "hostNetwork"), "yes"),
    ],
    ids=["enum", "misspelt", "value of another policy", "misspelt in the pod", "type"],
)
@pytest.mark.parametrize("version", LWS_VERSIONS)
def test_lws_schema_catches(version: str, place: tuple[str, ...], value: object) -> None:
    group = next(m for m in built(K8S / HOST) if m["kind"] == "LeaderWorkerSet")
    assert custom_faults(group, version) == []
    node = group["spec"]
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    assert custom_faults(group, version) != []


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_schema_catches(version: str) -> None:
    group = next(m for m in built(K8S / HOST) if m["kind"] == "LeaderWorkerSet")
    (good, _worker) = as_stateful_sets(group)
    for field, value in (("dnsPolicyy", "Default"), ("terminationGracePeriodSeconds", "120s")):
        broken = copy.deepcopy(good)
        broken["spec"]["template"]["spec"][field] = value
        assert kubernetes_faults(good, version) == []
        assert kubernetes_faults(broken, version) != []


def test_repeated_key_is_no_manifest() -> None:
    import yaml

    with pytest.raises(yaml.YAMLError, match="repeated keys"):
        parse("kind: Service\nspec: {}\nspec: {}\n")
