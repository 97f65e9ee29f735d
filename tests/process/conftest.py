"""Fixtures: a stand-in for SGLang, and a cluster of network namespaces for one test."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.layers import skip_or_fail
from tests.process.command import install_standin
from tests.process.nodes import Cluster, Node, missing_requirement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEADER_NAME = "sglang-0"


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory in which the stand-in `sglang` is installed."""
    return install_standin(tmp_path_factory.mktemp("sglang"))


@cache
def _missing() -> str | None:
    return missing_requirement()


@pytest.fixture
def cluster(tmp_path: Path, standin: Path) -> Iterator[Cluster]:
    """Return a running fabric with DNS and no nodes yet."""
    missing = _missing()
    if missing:
        skip_or_fail("netns", missing)
    with Cluster(tmp_path, standin) as running:
        yield running


@pytest.fixture
def leader(cluster: Cluster) -> Node:
    """Return the leader's node (IPv4). Its name is in DNS only once a test publishes it."""
    return cluster.add_node(LEADER_NAME)


@pytest.fixture
def worker(leader: Node, cluster: Cluster) -> Node:
    """Return the first worker's node (IPv4)."""
    return cluster.add_node(f"{LEADER_NAME}-1")
