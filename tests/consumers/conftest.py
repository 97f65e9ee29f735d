"""The judges: UCX's own tool, Mooncake's engine, SGLang's validation. Each skips where its wheel is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from tests.command.conftest import clean_environment
from tests.consumers.sglang_source import Validator
from tests.consumers.wheels import MOONCAKE, UCX, NotFetched, cache_folder, unpacked, wheel
from tests.layers import is_required, skip_or_fail

if TYPE_CHECKING:
    from pathlib import Path

LAYER = "consumers"

Ask = Callable[[Mapping[str, str]], str]


def _missing(failure: NotFetched) -> None:
    if is_required(LAYER):
        skip_or_fail(LAYER, str(failure))
    how = f"SGLANG_ROCE_TESTS_REQUIRE={LAYER} fetches them"
    skip_or_fail(LAYER, f"needs 140 MB of released wheels in {cache_folder()}: {how}")


def _run(command: list[str], environ: Mapping[str, str]) -> str:
    prefixes = ("UCX_", "MC_", "NCCL_", "MOONCAKE_", "GLOG_")
    base = {name: text for name, text in clean_environment().items() if not name.startswith(prefixes)}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**base, **environ}, timeout=120, check=False
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def ucx_info(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Return a function that gives what UCX would use under some variables."""
    try:
        folder = unpacked(UCX, tmp_path_factory.mktemp("ucx"), fetch=is_required(LAYER))
    except NotFetched as failure:
        _missing(failure)
        raise
    tool = folder / "libucx" / "bin" / "ucx_info"
    tool.chmod(0o755)
    library_path = {"LD_LIBRARY_PATH": str(folder / "libucx" / "lib")}
    return lambda environ: _run([str(tool), "-p", "-u", "t"], {**library_path, **environ})


_ENGINE = """
import sys
sys.path.insert(0, sys.argv[1])
from mooncake.engine import TransferEngine
engine = TransferEngine()
print("initialize", engine.initialize("127.0.0.1:17812", "P2PHANDSHAKE", "rdma", ""))
print(engine.get_local_topology(""))
"""


@pytest.fixture(scope="session")
def mooncake(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Return a function that starts Mooncake's engine under some variables and gives its log and topology."""
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        skip_or_fail(LAYER, "Mooncake's engine needs libibverbs.so.1 (Debian: libibverbs1)")
    try:
        folder: Path = unpacked(MOONCAKE, tmp_path_factory.mktemp("mooncake"), fetch=is_required(LAYER))
    except NotFetched as failure:
        _missing(failure)
        raise
    command = [sys.executable, "-c", _ENGINE, os.fspath(folder)]
    return lambda environ: _run(command, {"GLOG_logtostderr": "1", **environ})


@pytest.fixture(scope="session")
def validator() -> Callable[[str], Validator]:
    """Return a function from a release to its validation of device options."""

    def of(version: str) -> Validator:
        try:
            return Validator(wheel(f"sglang=={version}", fetch=is_required(LAYER), any_python=True))
        except NotFetched as failure:
            _missing(failure)
            raise

    return of
