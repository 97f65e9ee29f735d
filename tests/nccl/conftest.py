"""Fixtures of the NCCL layer: the releases, the verbs library, one judge per release."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.layers import is_required, skip_or_fail
from tests.nccl.judge import Judge, build_verbs_library
from tests.nccl.wheels import RELEASES, Release, WheelUnavailableError, cache_directory, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder ``nccl``."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.nccl)


@pytest.fixture(scope="session")
def verbs_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return our libibverbs.so.1, built against rdma-core's public header."""
    if sys.platform != "linux":
        skip_or_fail("nccl", "needs Linux: NCCL's wheels are for it only")
    if shutil.which("cc") is None or shutil.which("nm") is None:
        skip_or_fail("nccl", "needs a C compiler and binutils (Debian: gcc libc6-dev binutils)")
    if not Path("/usr/include/infiniband/verbs.h").exists():
        skip_or_fail("nccl", "needs <infiniband/verbs.h> (Debian: libibverbs-dev)")
    try:
        return build_verbs_library(tmp_path_factory.mktemp("verbs"))
    except subprocess.CalledProcessError as error:
        pytest.fail(f"the verbs library does not build:\n{error.stderr}")


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Return one released NCCL after the other."""
    if shutil.which("nm") is None:
        skip_or_fail("nccl", "needs binutils (Debian: binutils)")
    # Nobody expects a plain pytest to download a gigabyte.
    required = is_required("nccl")
    try:
        return fetch(request.param, download=required)
    except WheelUnavailableError as error:
        if required:
            skip_or_fail("nccl", f"needs the wheel nvidia-nccl-cu12 {request.param}: {error}")
        how = "SGLANG_ROCE_TESTS_REQUIRE=nccl downloads them"
        skip_or_fail("nccl", f"needs 0.9 GB of NCCL's wheels in {cache_directory()}: {how}")


@pytest.fixture(scope="session")
def judge(release: Release, verbs_library: Path) -> Iterator[Judge]:
    """Return a running judge of ``release``."""
    judge = Judge(release, verbs_library)
    yield judge
    judge.close()
