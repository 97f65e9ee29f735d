"""Three libibverbs of the tests' own, compiled here; `LD_LIBRARY_PATH` puts one before the machine's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.layers import skip_or_fail

SOURCES = Path(__file__).resolve().parent / "stub"
HEADER = Path("/usr/include/infiniband/verbs.h")


def stub_library(folder: Path, *options: str) -> Path:
    """Compile the one that breaks below ``folder`` and return the folder to look for libraries in."""
    return _library("libibverbs.c", folder, *options)


def carrying_library(folder: Path) -> Path:
    """Compile the one over which two ends of one process carry messages; return that folder."""
    if not HEADER.exists():
        skip_or_fail("verbs", "needs <infiniband/verbs.h> (Debian: libibverbs-dev)")
    return _library("carrying.c", folder)


def subnet_library(folder: Path) -> Path:
    """Compile the one of an InfiniBand subnet, which carries from one process to another; return that folder."""
    if not HEADER.exists():
        skip_or_fail("verbs", "needs <infiniband/verbs.h> (Debian: libibverbs-dev)")
    return _library("subnet.c", folder)


def _library(source: str, folder: Path, *options: str) -> Path:
    if shutil.which("gcc") is None:
        skip_or_fail("verbs", "needs a C compiler (Debian: gcc libc6-dev)")
    made = folder / "stub"
    made.mkdir()
    version = f"-Wl,--version-script={SOURCES / 'libibverbs.map'},-soname,libibverbs.so.1"
    command: list[str | Path] = ["gcc", "-shared", "-fPIC", version, *options, "-o", made / "libibverbs.so.1"]
    subprocess.run([*command, SOURCES / source], check=True)
    (made / "libibverbs.so").symlink_to("libibverbs.so.1")
    return made
