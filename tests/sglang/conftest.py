"""Fixtures: the environment, built once; this checkout installed beside SGLang; one release's parser."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.layers import is_required, skip_or_fail
from tests.process.nodes import Cluster, missing_requirement
from tests.sglang.environment import (
    Environment,
    NotBuilt,
    build_environment,
    cache_root,
    install_checkout,
    is_complete,
)
from tests.sglang.judge import Judge
from tests.sglang.releases import RELEASES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYER = "sglang"


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Return the environment; fetches gigabytes only where the layer is required."""
    root = cache_root()
    if not is_complete(root) and not is_required(LAYER):
        pytest.skip(f"needs 3 GB of packages in {root}: SGLANG_ROCE_TESTS_REQUIRE={LAYER} fetches them")
    try:
        return build_environment(root)
    except NotBuilt as failure:
        skip_or_fail(LAYER, str(failure))


@pytest.fixture(scope="session")
def entry(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the command, installed from this checkout for the interpreter that SGLang lives in."""
    try:
        return install_checkout(environment, tmp_path_factory.mktemp("installed"))
    except NotBuilt as failure:
        pytest.fail(str(failure), pytrace=False)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a running fabric with DNS and no nodes yet."""
    missing = missing_requirement()
    if missing:
        skip_or_fail(LAYER, missing)
    with Cluster(tmp_path, None) as running:
        yield running


@pytest.fixture(scope="session", params=RELEASES, ids=lambda release: release.version)
def judge(
    request: pytest.FixtureRequest, environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Judge]:
    """Return the parser of each release in turn; pytest puts all tests of one release together."""
    with closing(Judge(environment, request.param, tmp_path_factory.mktemp("judge"))) as running:
        running.start()
        yield running
