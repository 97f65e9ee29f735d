"""Every test here carries the marker ``manifests`` and needs a kubectl with a kustomize of today."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.layers import skip_or_fail
from tests.manifests.kubectl import kubectl
from tests.manifests.manifest_set import K8S, Manifest, built, variants
from tests.manifests.nodes import Node, recorded_nodes

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.manifests)


@functools.cache
def _missing() -> str | None:
    """Return a sentence that names what is missing, or None."""
    packages = {"jsonschema": "jsonschema", "kubernetes_validate": "kubernetes-validate"}
    absent = [package for module, package in packages.items() if find_spec(module) is None]
    if absent:
        return f"needs {' and '.join(absent)}: pip install '.[test]'"
    return kubectl().missing


@pytest.fixture(autouse=True, scope="session")
def _tools() -> None:
    sentence = _missing()
    if sentence:
        skip_or_fail("manifests", sentence)


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest) -> str:
    """Return each folder that a user applies in turn."""
    return str(request.param)


@pytest.fixture
def manifests(variant: str) -> list[Manifest]:
    """Return what ``kubectl apply -k`` sends for the variant, a fresh copy."""
    return built(K8S / variant)


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Node]:
    """Return the recorded nodes, by the network of the pods that they fit."""
    return recorded_nodes(tmp_path_factory.mktemp("nodes"))
