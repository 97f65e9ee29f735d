"""Ways through the documents of one variant that the rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from tests.manifests.manifest_set import Manifest, PodTemplate, leader_worker_sets, pod_templates

Rule = Callable[[list[Manifest]], Iterator[str]]

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def duplicates(values: Iterable[Any]) -> list[Any]:
    """Return what occurs more than once, each once."""
    seen = list(values)
    return sorted({value for value in seen if seen.count(value) > 1}, key=str)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the documents of ``kind``; what a DisaggregatedSet becomes are LeaderWorkerSets."""
    if kind == "LeaderWorkerSet":
        return list(leader_worker_sets(manifests))
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def containers(manifests: list[Manifest]) -> Iterator[tuple[PodTemplate, Manifest]]:
    """Yield every container with its pod."""
    for pod in pod_templates(manifests):
        for container in pod.containers:
            yield pod, container


def probes(manifests: list[Manifest]) -> Iterator[tuple[PodTemplate, Manifest, str, Manifest]]:
    """Yield every probe with its pod, its container and its name."""
    for pod, container in containers(manifests):
        for kind in PROBES:
            if kind in container:
                yield pod, container, kind, container[kind]


def port_number(candidates: list[Manifest], port: Any) -> int | None:
    """Return the number of the port that one of the containers declares by this name or number."""
    for declared in chain.from_iterable(container.get("ports", []) for container in candidates):
        if port in {declared.get("name"), declared["containerPort"]}:
            return int(declared["containerPort"])
    return None


def option(container: Manifest, name: str) -> str | None:
    """Return the word after ``name`` in the container's arguments."""
    arguments = container.get("args", [])
    position = arguments.index(name) + 1 if name in arguments else len(arguments)
    return str(arguments[position]) if position < len(arguments) else None
