"""Builds, once, what the layer runs in: a CPU torch, SGLang's own requirements, several SGLang releases.

    <cache>/sglang/base-<fingerprint>/                 a virtual environment of requirements.txt
    <cache>/sglang/sglang-<version>-<fingerprint>/     one release, without its requirements
    <cache>/sglang/transformers-<age>-<fingerprint>/   what older releases need in its place

`<cache>` is $SGLANG_ROCE_TEST_CACHE, or ~/.cache/sglang-roce-entry-tests. The fingerprint is of the
pins, so changed pins build anew. A part is complete when its last act, a mark, is there; anything
else at its place is the left-over of an interrupted build and is removed. Every requirement is
pinned and pip resolves nothing (`--no-deps`): so nothing can replace the CPU torch by a CUDA one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sglang.releases import COMPANIONS, RELEASES
from tests.sources import copy_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.sglang.releases import Release

HERE = Path(__file__).resolve().parent
INSIDE = HERE / "inside"
REQUIREMENTS = HERE / "requirements.txt"
TORCH = "torch==2.13.0"
PYTHON = "3.11"  # SGLang needs 3.11 or later; the CPU build of torch is to be had for it
ENOUGH_BYTES = 5 * 2**30
COMPLETE = "complete"
ATTEMPTS = 3
INSTALL_S = 900.0

MODEL_SCRIPT = INSIDE / "tiny_model.py"


class NotBuilt(Exception):
    """The environment is not there and cannot be built; one sentence."""


@dataclass(frozen=True)
class Environment:
    """The parts, all of them complete."""

    root: Path
    python: Path
    folders: dict[str, Path]

    def variables(self, release: Release, *first: Path, mocked: Sequence[str] | None = None) -> dict[str, str]:
        """Return the variables in which this release can be imported, `first` in front of its path."""
        parts = [f"sglang-{release.version}", *([release.beside] if release.beside else [])]
        path = [*first, *(self.folders[part] for part in parts), INSIDE]
        return {
            "PYTHONPATH": os.pathsep.join(str(entry) for entry in path),
            "MOCKED_PACKAGES": ",".join(release.mocked if mocked is None else mocked),
            "HF_HUB_OFFLINE": "1",
        }


def cache_root() -> Path:
    """Return the folder of this layer in the cache."""
    named = os.environ.get("SGLANG_ROCE_TEST_CACHE")
    cache = Path(named) if named else Path.home() / ".cache" / "sglang-roce-entry-tests"
    return cache / "sglang"


def fingerprint(*texts: str) -> str:
    """Return a short name for what is pinned, on this interpreter."""
    return hashlib.sha256("\n".join([PYTHON, *texts]).encode()).hexdigest()[:12]


def find_python() -> str | None:
    """Return an interpreter of the version that the pins are for, None if there is none."""
    candidates = [sys.executable, shutil.which(f"python{PYTHON}")]
    for candidate in candidates:
        if candidate is None:
            continue
        asked = subprocess.run(
            [candidate, "-c", "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip() == PYTHON:
            return candidate
    return None


def complete_part(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder` as `build` leaves it, built now unless it was completed before."""
    if not (folder / COMPLETE).exists():
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        build(folder)
        (folder / COMPLETE).touch()
    return folder


def run(words: Sequence[str | Path], what: str, attempts: int = 1) -> None:
    """Run a step of the build. Raises NotBuilt with the last thing it said, after `attempts` failures."""
    said = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(10.0 * attempt)
        try:
            done = subprocess.run(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotBuilt(f"{what} was not done in {INSTALL_S:.0f} s") from None
        if done.returncode == 0:
            return
        said = next(iter(reversed(done.stderr.strip().splitlines())), f"exit {done.returncode}")
    raise NotBuilt(f"{what} failed: {said}")


def pip(python: Path, *words: str | Path, what: str) -> None:
    """Install exactly what is named; a failed download is tried again."""
    run(
        [
            python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
            "--no-deps", "--only-binary", ":all:", "--retries", "8", "--timeout", "60", *words,
        ],
        f"installing {what}",
        ATTEMPTS,
    )  # fmt: skip


def refuse_cuda(version_file: Path) -> None:
    """Raise NotBuilt if torch's version.py is that of a CUDA build, whose requirements are gigabytes."""
    found: dict[str, str | None] = {}
    exec(version_file.read_text(encoding="utf-8"), found)  # the module alone, without loading torch
    if found.get("cuda"):
        raise NotBuilt(f"pip's {TORCH} is a CUDA build here: name an index of CPU builds in PIP_EXTRA_INDEX_URL")


def build_base(folder: Path) -> None:
    """Make the virtual environment. Torch comes first, to stop before anything else if it is not a CPU build."""
    interpreter = find_python()
    if interpreter is None:
        raise NotBuilt(f"needs a Python {PYTHON} with venv")
    run([interpreter, "-m", "venv", folder], "making a virtual environment")
    python = folder / "bin" / "python"
    pip(python, TORCH, what=TORCH)
    refuse_cuda(next(folder.glob("lib/python*/site-packages/torch/version.py")))
    pip(python, "-r", REQUIREMENTS, what=REQUIREMENTS.name)
    run([python, "-c", "import torch, transformers"], "importing torch")


def parts() -> dict[str, tuple[str, ...]]:
    """Return the folders beside the base, each with the packages installed into it."""
    releases = {f"sglang-{release.version}": (f"sglang=={release.version}",) for release in RELEASES}
    return {**COMPANIONS, **releases}


def folder_of(root: Path, name: str) -> Path:
    """Return where a part lies; `base` is the virtual environment, `model` the model."""
    base = fingerprint(TORCH, REQUIREMENTS.read_text(encoding="utf-8"))
    if name == "base":
        return root / f"base-{base}"
    if name == "model":
        return root / f"model-{fingerprint(base, MODEL_SCRIPT.read_text(encoding='utf-8'))}"
    return root / f"{name}-{fingerprint(*parts()[name])}"


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the cache: a second run waits for the first one's build instead of building as well."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_complete(root: Path) -> bool:
    """Return whether every part is there, so that nothing would be fetched."""
    names = ["base", "model", *parts()]
    return all((folder_of(root, name) / COMPLETE).exists() for name in names)


def build_environment(root: Path) -> Environment:
    """Return the environment, building what is missing. Raises NotBuilt with one sentence."""
    with alone(root):
        if not is_complete(root) and shutil.disk_usage(root).free < ENOUGH_BYTES:
            raise NotBuilt(f"needs {ENOUGH_BYTES >> 30} GiB free in {root}")
        base = complete_part(folder_of(root, "base"), build_base)
        python = base / "bin" / "python"
        folders = {}
        for name, packages in parts().items():

            def install(folder: Path, packages: tuple[str, ...] = packages) -> None:
                pip(python, "--target", folder, *packages, what=" ".join(packages))

            folders[name] = complete_part(folder_of(root, name), install)
        folders["model"] = complete_part(
            folder_of(root, "model"),
            lambda folder: run([python, MODEL_SCRIPT, folder], "generating the model"),
        )
        return Environment(root, python, folders)


def install_checkout(environment: Environment, target: Path) -> Path:
    """Install the code under test into `target` for the environment's interpreter; return the command."""
    with tempfile.TemporaryDirectory() as folder:
        copy_sources(Path(folder))
        pip(environment.python, "--no-build-isolation", "--target", target, folder, what="the code under test")
    return target / "bin" / "sglang-roce-entry"
