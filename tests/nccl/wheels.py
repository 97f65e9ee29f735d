"""Released NCCL libraries, fetched as Python wheels at test time and kept in a cache directory.

The wheels of ``nvidia-nccl-cu12`` hold ``libnccl.so.2`` with its full symbol table, which is how the
worker finds NCCL's own network plugin table. They need neither CUDA nor a GPU for what is asked here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "nvidia-nccl-cu12"
NEWEST = "newest"

#: One release from before the GID scan (2.21), the first with it, the first in which an unreadable
#: GID type does not end the connection (2.26), and whatever the registry has today.
RELEASES = ("2.20.5", "2.21.5", "2.26.2", NEWEST)


ATTEMPTS = 3
PIP_LIMIT_S = 900


class WheelUnavailableError(Exception):
    """A wheel could not be fetched, with what pip said last."""


@dataclass(frozen=True, slots=True)
class Release:
    """One NCCL release: its version, its library and where its plugin table lies.

    ``net_table_offset`` is the distance in bytes from ``ncclGetVersion`` to ``ncclNetIb``.
    """

    version: str
    library: Path
    net_table_offset: int

    @property
    def number(self) -> tuple[int, ...]:
        """Return the version for comparisons: (2, 26, 2)."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    @property
    def plugin_abi(self) -> int:
        """Return the version of the ``ncclNet`` structure that NCCL's own table has.

        Source: ``typedef ncclNet_v<N>_t ncclNet_t`` in ``src/include/nccl_net.h`` of each release.
        """
        for first, abi in (((2, 30), 12), ((2, 28), 11), ((2, 26), 10), ((2, 24), 9), ((2, 19), 8)):
            if self.number >= first:
                return abi
        raise ValueError(f"NCCL {self.version} has a plugin table that the worker does not know")


def cache_directory() -> Path:
    """Return where the libraries are kept, from ``SGLANG_ROCE_TEST_CACHE`` or the home directory."""
    root = os.environ.get("SGLANG_ROCE_TEST_CACHE")
    base = Path(root) if root else Path.home() / ".cache" / "sglang-roce-entry-tests"
    return base / "nccl"


def fetch(release: str, *, download: bool = True) -> Release:
    """Return the library of ``release`` (a version or ``newest``), downloading it at first use.

    Raises ``WheelUnavailableError`` where the cache does not have it and pip cannot deliver it, or may not
    (``download``); then ``newest`` is the newest of the cache.
    """
    cache = cache_directory()
    version = release
    if release == NEWEST:
        version = _newest_version(cache) if download else _newest_cached(cache)
    folder = cache / version
    if not (folder / "libnccl.so.2").is_file():
        if not download:
            raise WheelUnavailableError(f"not in {cache}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
            unpacked = _download(version, Path(scratch))
            # A second test process may have been faster: the first one to rename wins.
            with contextlib.suppress(OSError):
                unpacked.rename(folder)
    library = folder / "libnccl.so.2"
    return Release(version, library, _net_table_offset(library))


def _pip(*arguments: str) -> str:
    """Return what pip printed, after up to ``ATTEMPTS`` runs: a mirror may stall on 300 MB."""
    command = [sys.executable, "-m", "pip", "--retries", "5", "--timeout", "60", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    said = ""
    for attempt in range(ATTEMPTS):
        time.sleep(5 * attempt)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PIP_LIMIT_S, check=False, env=environment
            )
        except subprocess.TimeoutExpired:
            said = f"pip took more than {PIP_LIMIT_S} s"
            continue
        if done.returncode == 0:
            return done.stdout
        errors = [line for line in done.stderr.splitlines() if line.strip() and "notice" not in line]
        said = errors[-1] if errors else f"pip exited with {done.returncode}"
        if any("No matching distribution" in line or "No module named" in line for line in errors):
            break  # trying again changes nothing
    raise WheelUnavailableError(said)


def _newest_version(cache: Path) -> str:
    """Return the newest version of the registry, or of the cache where the registry is silent."""
    question = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report")
    try:
        report = json.loads(_pip(*question, "-", PACKAGE))
        return str(report["install"][0]["metadata"]["version"])
    except WheelUnavailableError as error:
        try:
            return _newest_cached(cache)
        except WheelUnavailableError:
            raise error from None


def _newest_cached(cache: Path) -> str:
    """Return the newest version in the cache that is none of the named ones."""
    cached = [path.parent.name for path in cache.glob("*/libnccl.so.2")]
    newer = [name for name in cached if name not in RELEASES]
    if not newer:
        raise WheelUnavailableError(f"not in {cache}")
    return max(newer, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


def _download(version: str, scratch: Path) -> Path:
    """Return a folder with ``libnccl.so.2`` of the wheel of ``version``."""
    _pip(
        *("download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--dest", str(scratch), f"{PACKAGE}=={version}"),
    )
    (wheel,) = scratch.glob("*.whl")
    folder = scratch / "unpacked"
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/libnccl.so.2"))
        with archive.open(member) as source, (folder / "libnccl.so.2").open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 22)
    return folder


def _net_table_offset(library: Path) -> int:
    """Return the distance from the exported ``ncclGetVersion`` to the static ``ncclNetIb``."""
    listing = subprocess.run(["nm", str(library)], capture_output=True, text=True, check=True)
    value: dict[str, int] = {}
    for line in listing.stdout.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] in {"ncclNetIb", "ncclGetVersion"}:
            value[words[2]] = int(words[0], 16)
    if len(value) != 2:
        raise ValueError(f"{library} has no symbols ncclNetIb and ncclGetVersion: is it stripped?")
    return value["ncclNetIb"] - value["ncclGetVersion"]
