"""Handles on the documents of one variant, for breaking them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.manifests.manifest_set import Manifest
    from tests.manifests.rules.walk import Rule

HOST, PRIVILEGED = "roce-hostnetwork/shared-device-plugin", "roce-hostnetwork/privileged"
SRIOV, RESTRICTED = "roce-sriov/ipc-lock", "roce-sriov/restricted"
PREFILL_DECODE, DRA = "prefill-decode/shared-device-plugin", "dra/dranet"
PREFLIGHT = "preflight/shared-device-plugin"
REHEARSAL = "rehearsal/shared-device-plugin"


@dataclass(frozen=True)
class Case:
    """One deliberately broken manifest."""

    rule: Rule
    variant: str
    broken: Callable[[list[Manifest]], None]
    says: str  # a regular expression: what the rule must say about it


def of(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the first document of ``kind``."""
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def group(manifests: list[Manifest]) -> Manifest:
    """Return the first LeaderWorkerSet."""
    return of(manifests, "LeaderWorkerSet")


def template(manifests: list[Manifest]) -> Manifest:
    """Return the pod template of the first group."""
    found: Manifest = group(manifests)["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    return found


def pod(manifests: list[Manifest]) -> Manifest:
    """Return the pod specification of the first group."""
    found: Manifest = template(manifests)["spec"]
    return found


def container(manifests: list[Manifest]) -> Manifest:
    """Return the only container of the first group."""
    found: Manifest = pod(manifests)["containers"][0]
    return found


def router(manifests: list[Manifest]) -> Manifest:
    """Return the router's container."""
    found: Manifest = of(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def volume(manifests: list[Manifest], name: str) -> Manifest:
    """Return a volume of the first group."""
    found: Manifest = next(v for v in pod(manifests)["volumes"] if v["name"] == name)
    return found


def set_argument(owner: Manifest, option: str, value: str) -> None:
    """Replace the word after ``option``."""
    owner["args"][owner["args"].index(option) + 1] = value
