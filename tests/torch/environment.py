"""The torch that judges: CPU build of one release, in a virtual environment of its own in a cache.

`SGLANG_ROCE_TEST_CACHE` names the cache (default `~/.cache/sglang-roce-entry-tests`). An environment
counts as built only once its last step has written what it was built from; anything else there, a
build that was interrupted above all, is thrown away and built anew. Two test runs do not meet in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TORCH_VERSION = "2.13.0"
_FINISHED = "finished.json"


class Unavailable(Exception):
    """The environment is not there and cannot be built here; the text is one plain sentence."""


@dataclass(frozen=True)
class Recipe:
    """What an environment is built from: the interpreter, its tag (`cp311`), pip requirements."""

    interpreter: str
    tag: str
    requirements: tuple[str, ...]

    @classmethod
    def for_torch(cls, interpreter: str) -> Recipe:
        """Return the recipe of torch for the interpreter in which the command under test runs."""
        code = "import sys; print('cp%d%d' % sys.version_info[:2])"
        tag = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        return cls(interpreter, tag, (f"torch=={TORCH_VERSION}",))

    def text(self) -> str:
        """Return what a finished environment must say that it was built from."""
        return json.dumps({"python": self.tag, "requirements": list(self.requirements)})


def cache_directory() -> Path:
    """Return where environments of this layer are kept."""
    given = os.environ.get("SGLANG_ROCE_TEST_CACHE")
    root = Path(given) if given else Path.home() / ".cache" / "sglang-roce-entry-tests"
    return root / "torch"


def site_packages(environment: Path) -> Path:
    """Return the folder of an environment in which packages lie."""
    return next((environment / "lib").glob("python3.*")) / "site-packages"


def is_finished(environment: Path, recipe: Recipe) -> bool:
    """Return whether `environment` was built to its end, from this recipe, and can still start."""
    try:
        said = (environment / _FINISHED).read_text(encoding="utf-8")
    except OSError:
        return False
    return said == recipe.text() and os.access(environment / "bin" / "python", os.X_OK)


def ready(recipe: Recipe, *, build: bool, directory: Path | None = None) -> Path:
    """Return the environment of `recipe`, built first if need be and allowed.

    Raises Unavailable.
    """
    directory = directory or cache_directory()
    environment = directory / recipe.tag
    if is_finished(environment, recipe):
        return environment
    if not build:
        raise Unavailable(
            f"needs {' '.join(recipe.requirements)} in {environment}; "
            "SGLANG_ROCE_TESTS_REQUIRE=torch builds it there (0.9 GB)"
        )
    with _alone(directory / f"{recipe.tag}.lock"):
        if not is_finished(environment, recipe):
            _build(environment, recipe)
    return environment


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(environment: Path, recipe: Recipe) -> None:
    shutil.rmtree(environment, ignore_errors=True)
    _run([recipe.interpreter, "-m", "venv", str(environment)])
    python = str(environment / "bin" / "python")
    for requirement in recipe.requirements:
        _refuse_cuda(python, requirement)
        _run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", requirement])
    draft = environment / f"{_FINISHED}.draft"
    draft.write_text(recipe.text(), encoding="utf-8")
    draft.rename(environment / _FINISHED)


def _refuse_cuda(python: str, requirement: str) -> None:
    """Ask pip what it would install: the CUDA build of torch is gigabytes, and useless here."""
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    report = _run([*pip, "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", requirement])
    for chosen in json.loads(report)["install"]:
        needs = chosen["metadata"].get("requires_dist", [])
        if any(need.lower().startswith(("nvidia", "cuda")) for need in needs):
            raise Unavailable(
                f"pip would install the CUDA build of {requirement}; name a place that has the CPU build "
                "in PIP_INDEX_URL or PIP_FIND_LINKS"
            )


def _run(words: list[str]) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"`{' '.join(words[1:])}` failed: {last}")
    return done.stdout
