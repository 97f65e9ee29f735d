"""Fixtures: the judge's torch, and a cluster whose SGLang is a torch rendezvous."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.layers import is_required, skip_or_fail
from tests.process.command import entry_interpreter
from tests.process.nodes import Cluster, missing_requirement
from tests.torch.environment import Recipe, Unavailable, ready, site_packages
from tests.torch.rendezvous import install_rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@cache
def _packages() -> Path | str:
    missing = missing_requirement()
    if missing:
        return missing
    try:
        return site_packages(ready(Recipe.for_torch(entry_interpreter()), build=is_required("torch")))
    except Unavailable as reason:
        return str(reason)


@pytest.fixture
def torch_packages() -> Path:
    """Return the folder with torch in it; it is built if this layer is required."""
    found = _packages()
    if isinstance(found, str):
        skip_or_fail("torch", found)
    return found


@pytest.fixture(scope="session")
def torch_standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory in which this layer's stand-in `sglang` is installed."""
    return install_rendezvous(tmp_path_factory.mktemp("sglang-torch"))


@pytest.fixture
def cluster(tmp_path: Path, torch_packages: Path, torch_standin: Path) -> Iterator[Cluster]:
    """Return a running fabric with DNS and no nodes yet."""
    with Cluster(tmp_path, torch_standin) as running:
        yield running
