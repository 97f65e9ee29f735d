"""Packages of Debian's releases: what this machine's own lists name, or another suite of the same mirror.

Another suite has lists, keys checked by apt as always, in a folder of its own; nothing of this machine's apt changes.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class KernelUnavailableError(Exception):
    """What the layer boots cannot be fetched or lacks something; the message is one plain sentence."""


def cache_directory() -> Path:
    """Where fetched parts are kept: `$SGLANG_ROCE_TEST_CACHE`/kernel, or a directory under the user's cache."""
    configured = os.environ.get("SGLANG_ROCE_TEST_CACHE")
    base = Path(configured) if configured else Path.home() / ".cache" / "sglang-roce-entry-tests"
    return base.resolve() / "kernel"


@dataclass(frozen=True, slots=True)
class Archive:
    """A suite with its lists, or this machine's own."""

    options: tuple[str, ...] = ()

    def ask(self, *arguments: str) -> str:
        """Return what `apt-cache` says. Raises CalledProcessError and OSError."""
        untranslated = {**os.environ, "LC_ALL": "C"}
        command = ["apt-cache", *self.options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=untranslated).stdout

    def depends(self, package: str) -> list[str]:
        """Return the names of the packages that a package needs."""
        return re.findall(r"(?m)^\s*Depends: ([^<\s]\S*)$", self.ask("depends", package))

    def version(self, package: str) -> str:
        shown = self.ask("show", "--no-all-versions", package)
        return str(re.findall(r"(?m)^Version: (\S+)$", shown)[0])

    def get(self, *arguments: str, folder: Path) -> None:
        """Let `apt-get` leave packages in a folder. Raises KernelUnavailableError."""
        command = ["apt-get", *self.options, "-o", f"Dir::Cache::archives={folder}", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[-300:]
            raise KernelUnavailableError(f"`apt-get {' '.join(arguments)}` fails (apt-get update?): {said}")


def archive_of(suite: str, *, download: bool) -> Archive:
    """Return a suite of the mirror that this machine's apt uses, with the lists of now or, without `download`, of then."""
    home = cache_directory() / "apt" / suite
    options = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": home,
        "Dir::State::status": home / "status",
        "Dir::Cache": home,
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
    }
    archive = Archive(tuple(word for name, value in options.items() for word in ("-o", f"{name}={value}")))
    if not download and not (home / "status").exists():
        raise KernelUnavailableError(f"needs the package lists of Debian's {suite}, not in {home}")
    if download:
        for folder in ("lists/partial", "archives/partial"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "sources.list").write_text(f"deb [signed-by={KEYS}] {_mirror()} {suite} main\n")
        archive.get("update", "-q", folder=home)
        (home / "status").touch()
    return archive


def _mirror() -> str:
    question = (
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
    )
    done = subprocess.run(["apt-get", *question], capture_output=True, text=True, check=False)
    found = done.stdout.split()
    if not found:
        raise KernelUnavailableError("needs Debian's package lists: apt-get update")
    return found[0]


#: An interpreter with its library, and rdma-core; the last so that no systemd is needed.
USERLAND = ("python3-minimal", "libpython3-stdlib", "ibverbs-providers", "systemd-standalone-sysusers")
MERGED = ("bin", "lib", "lib64", "sbin")


def userland(suite: str, *, download: bool = True) -> tuple[str, Path]:
    """Return rdma-core's version in a suite, and a root directory with it and all that its library and Python need.

    It is never booted and nothing in it is set up: for `chroot` in the guest. Raises KernelUnavailableError.
    """
    archive = archive_of(suite, download=download)
    try:
        version = archive.version(USERLAND[2])
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise KernelUnavailableError(f"needs {USERLAND[2]} of Debian's {suite}") from error
    directory = cache_directory() / f"userland_{suite}_{version}"
    if not directory.is_dir() and not download:
        raise KernelUnavailableError(f"needs {USERLAND[2]} {version}, not in {cache_directory()}")
    if not directory.is_dir():
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix="building-") as building:
            packages, root = Path(building) / "packages", Path(building) / "root"
            (packages / "partial").mkdir(parents=True)
            options = ("-q", "-y", "--download-only", "--no-install-recommends")
            archive.get("install", *options, *USERLAND, folder=packages)
            for name in MERGED:  # links since Debian 13, which no package has
                (root / "usr" / name).mkdir(parents=True)
                (root / name).symlink_to(f"usr/{name}")
            for deb in packages.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
            _compile(root)
            with contextlib.suppress(OSError):  # another run was faster
                os.rename(root, directory)
    return version, directory


def _compile(root: Path) -> None:
    """Compile Python's library, as its packages do when they are set up: in the guest that would take most of the time."""
    (library,) = (path.parent for path in (root / "usr" / "lib").glob("python3.*/os.py"))
    linker = (root / "lib64" / "ld-linux-x86-64.so.2", "--library-path", root / "usr/lib/x86_64-linux-gnu")
    program = (root / "usr" / "bin" / library.name, "-m", "compileall", "-q", "-s", root, "-p", "/", library)
    subprocess.run(
        [*linker, *program],
        env={"PYTHONHOME": str(root / "usr"), "PATH": os.defpath},
        capture_output=True,
        check=True,
    )
