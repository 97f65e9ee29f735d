"""Released wheels of NCCL's neighbours, fetched at test time and kept in a cache folder.

Nothing of them is installed: UCX's tools and Mooncake's engine run from the unpacked wheel, and of SGLang
only the source of one function is taken, so none of their dependencies is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

UCX = "libucx-cu12==1.22.0"
MOONCAKE = "mooncake-transfer-engine-non-cuda==0.3.13.post1"
#: SGLang releases around each change of what its device option reads.
SGLANG = ("0.5.9", "0.5.12", "0.5.13", "0.5.22", "0.5.23")
#: SGLang's wheels are built for one interpreter; only text is read from them.
_ANY_PYTHON = ("--python-version", "3.11", "--platform", "manylinux_2_34_x86_64", "--only-binary", ":all:")


class NotFetched(Exception):
    """A wheel is neither in the cache nor to be had, with what pip said last."""


def cache_folder() -> Path:
    """Return where wheels are kept: ``SGLANG_ROCE_TEST_CACHE``, else below the home directory."""
    root = os.environ.get("SGLANG_ROCE_TEST_CACHE")
    base = Path(root) if root else Path.home() / ".cache" / "sglang-roce-entry-tests"
    return base / "consumers"


def wheel(requirement: str, *, fetch: bool, any_python: bool = False) -> Path:
    """Return the wheel of ``name==version``. Raises :class:`NotFetched`."""
    name, _, version = requirement.partition("==")
    tag = "any" if any_python or name.startswith("libucx") else f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder = cache_folder() / f"{name}-{version}-{tag}"
    found = sorted(folder.glob("*.whl"))
    if found:
        return found[0]
    if not fetch:
        raise NotFetched(f"{requirement} is not in {cache_folder()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch]
        done = subprocess.run(
            [*command, *(_ANY_PYTHON if any_python else ()), requirement],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:]
            raise NotFetched(f"{requirement}: {last[0] if last else 'pip failed'}")
        folder.mkdir(exist_ok=True)
        for path in Path(scratch).glob("*.whl"):
            path.replace(folder / path.name)
    return next(iter(sorted(folder.glob("*.whl"))))


def unpacked(requirement: str, folder: Path, *, fetch: bool) -> Path:
    """Return ``folder`` with the content of a wheel in it."""
    with zipfile.ZipFile(wheel(requirement, fetch=fetch)) as archive:
        archive.extractall(folder)
    return folder
