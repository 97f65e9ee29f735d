"""The file system of a base image, made of packages that are installed on this machine.

No registry and no package mirror is needed, and it takes a second. What it is not: SGLang's image,
which has another Python and another distribution; it proves the Dockerfile and the entrypoint only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: With everything they depend on. libibverbs1 is what SGLang's image has, and what NCCL loads.
#: The shell and the like are "essential", so nothing depends on them.
PACKAGES = (
    "python3",
    "python3-pip",
    "libibverbs1",
    "bash",
    "coreutils",
    "dash",
    "grep",
    "libc-bin",
)
#: Documentation and translations, and what only a boot needs.
_LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info|lintian|bug|perl)/|/usr/share/zoneinfo/")
_MERGED = re.compile(r"^/(bin|sbin|lib|lib32|lib64|libx32)(?=/|$)")
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "etc/os-release": b'ID=debian\nNAME="Debian"\n',
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}
_DIRECTORIES = ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp", "usr/local/bin")


def missing_packages() -> list[str]:
    """Return the packages that this machine lacks."""
    return sorted(set(PACKAGES) - set(_installed()))


def write_base(archive: Path) -> None:
    """Write the file system as a tar archive."""
    written: set[str] = set()
    with tarfile.open(archive, "w") as tar:
        for link in ("bin", "sbin", "lib", "lib64"):
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{link}"
            tar.addfile(entry)
        for name in _DIRECTORIES:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if name.endswith("tmp") else 0o755
            tar.addfile(entry)
        for name, content in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
        written.update(("bin", "sbin", "lib", "lib64", *_DIRECTORIES, *_FILES))
        for path in _paths(_closure()):
            name = _MERGED.sub(r"/usr/\1", path).lstrip("/")
            # From below /usr as well: /lib itself is a link on this machine too.
            if name not in written and os.path.lexists(f"/{name}"):
                written.add(name)
                tar.add(f"/{name}", arcname=name, recursive=False)


def _paths(packages: list[str]) -> Iterator[str]:
    listing = _output("dpkg", "--listfiles", *packages)
    for path in listing.splitlines():
        if not path.startswith("/") or path == "/." or _LEFT_OUT.search(f"{path}/"):
            continue
        yield path
        if path.endswith(".py"):
            # Byte code is written by the package's scripts, so dpkg does not know it. Without it
            # every start in a fresh container compiles half the standard library.
            directory, _, module = path.rpartition("/")
            tag = f"{directory}/__pycache__/{module[:-3]}.{sys.implementation.name}-"
            yield from (f"{tag}{minor}.pyc" for minor in ("310", "311", "312", "313", "314"))


def _closure() -> list[str]:
    """Return ``PACKAGES`` and all that they depend on, as far as it is installed."""
    installed = _installed()
    found: set[str] = set()
    pending = list(PACKAGES)
    while pending:
        package = pending.pop()
        if package in found or package not in installed:
            continue
        found.add(package)
        for clause in installed[package].split(","):
            names = [re.split(r"[ (:]", choice.strip())[0] for choice in clause.split("|")]
            pending += [name for name in names if name in installed][:1]
    return sorted(found)


def _installed() -> dict[str, str]:
    """Return the dependencies of every installed package by its name."""
    listing = _output(
        "dpkg-query",
        "--show",
        "--showformat=${db:Status-Status}\t${Package}\t${Pre-Depends}, ${Depends}\n",
    )
    rows = [line.split("\t") for line in listing.splitlines()]
    return {package: depends for status, package, depends in rows if status == "installed"}


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
