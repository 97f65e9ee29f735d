"""The manifests under ``k8s/``: where they are, what they contain, what kubectl makes of them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.manifests.kubectl import kustomize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Manifest = dict[str, Any]

K8S = Path(__file__).resolve().parents[2] / "k8s"
# The levels of https://kubernetes.io/docs/concepts/security/pod-security-standards/, strictest last.
LEVELS = ("privileged", "baseline", "restricted")


def variants() -> list[str]:
    """Return every folder that a user applies, relative to ``k8s/``, e.g. ``dra/dranet``."""
    folders = sorted(path.parent for path in K8S.rglob("kustomization.yaml"))
    return [str(path.relative_to(K8S)) for path in folders if "components" not in path.parts]


def plain_files() -> list[Path]:
    """Return every file that ``kubectl apply -f`` takes as it is."""
    files = sorted(K8S.rglob("*.yaml"))
    return [path for path in files if path.name in {"sglang.yaml", "preflight.yaml", "rehearsal.yaml"}]


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; the API server refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _value in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"repeated keys {sorted(repeated)}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def parse(text: str) -> list[Manifest]:
    """Return the documents of ``text``; raises ``yaml.YAMLError``, also for a repeated key."""
    documents = yaml.load_all(text, Loader=_UniqueKeyLoader)
    return [document for document in documents if document]


def _build(folder: Path) -> str:
    done = kustomize(folder)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return json.dumps(parse(done.stdout))


_build_once = functools.cache(_build)


def built(folder: Path) -> list[Manifest]:
    """Return what ``kubectl apply -k`` would send; raises ``RuntimeError`` with kubectl's words.

    What lies under ``k8s/`` does not change during a run and is built once; every caller gets a copy.
    """
    text = _build_once(folder) if folder.is_relative_to(K8S) else _build(folder)
    documents: list[Manifest] = json.loads(text)
    return documents


@dataclass(frozen=True)
class PodTemplate:
    """A pod that some object makes, with everything that decides about it."""

    owner: Manifest
    metadata: Mapping[str, Any]
    spec: Manifest

    @property
    def kind(self) -> str:
        """Return the kind of the owner."""
        return str(self.owner["kind"])

    @property
    def name(self) -> str:
        """Return ``Kind/name`` of the owner, for messages."""
        return f"{self.kind}/{self.owner['metadata']['name']}"

    @property
    def containers(self) -> list[Manifest]:
        """Return the init containers and the containers."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that the pod will carry, those of LeaderWorkerSet's leader included."""
        labels = dict(self.metadata.get("labels", {}))
        if self.kind == "LeaderWorkerSet":
            # The leader's: https://lws.sigs.k8s.io/docs/reference/ and its pod webhook.
            labels["leaderworkerset.sigs.k8s.io/name"] = self.owner["metadata"]["name"]
            labels["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
        return labels


def group_templates(leader_worker_set: Manifest) -> tuple[Manifest, Manifest]:
    """Return the pod templates of leader and worker as the controller of LeaderWorkerSet takes them.

    Without ``leaderTemplate`` the leader is made from ``workerTemplate``: the comment on
    ``LeaderWorkerTemplate`` in its API, and ``constructLeaderStatefulSetApplyConfiguration``.
    """
    templates = leader_worker_set["spec"]["leaderWorkerTemplate"]
    return templates.get("leaderTemplate") or templates["workerTemplate"], templates["workerTemplate"]


def _sets_of_roles(disaggregated_set: Manifest) -> Iterator[Manifest]:
    """Yield what the controller of DisaggregatedSet makes: a LeaderWorkerSet of each role.

    ``pkg/utils/disaggregatedset/utils.go`` and ``lws_manager.go`` of kubernetes-sigs/lws v0.10.0: named
    ``<set>-<slice>-<revision>-<role>``.
    """
    for role in disaggregated_set["spec"]["roles"]:
        name = f"{disaggregated_set['metadata']['name']}-0-54eea62e-{role['name']}"
        metadata = {"name": name, "labels": {"disaggregatedset.x-k8s.io/role": role["name"]}}
        yield {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": metadata,
            "spec": role["spec"],
        }


def leader_worker_sets(manifests: list[Manifest]) -> Iterator[Manifest]:
    """Yield the LeaderWorkerSets, those that a DisaggregatedSet becomes among them."""
    for manifest in manifests:
        if manifest["kind"] == "LeaderWorkerSet":
            yield manifest
        elif manifest["kind"] == "DisaggregatedSet":
            yield from _sets_of_roles(manifest)


def pod_templates(manifests: list[Manifest]) -> Iterator[PodTemplate]:
    """Yield the pod templates in ``manifests``; one for leader and worker where they are equal."""
    for manifest in manifests:
        kind = manifest["kind"]
        for group in leader_worker_sets([manifest]):
            leader, worker = group_templates(group)
            for template in [leader] if leader == worker else [leader, worker]:
                yield PodTemplate(group, template.get("metadata", {}), template["spec"])
        if kind in {"Job", "Deployment", "StatefulSet"}:
            template = manifest["spec"]["template"]
            yield PodTemplate(manifest, template.get("metadata", {}), template["spec"])


def rehearses(pod: PodTemplate) -> bool:
    """Return whether the pod runs the whole group but SGLang."""
    return bool(pod.containers[0].get("args", [])[:1] == ["--rehearse"])


def serving_templates(manifests: list[Manifest]) -> list[PodTemplate]:
    """Return those that run SGLang itself: everything that a LeaderWorkerSet makes."""
    return [pod for pod in pod_templates(manifests) if pod.kind == "LeaderWorkerSet"]
