"""The sources of the code under test, to build or install from: the checkout's, or those of an installed wheel.

The tests may run from a copy without the package, with a built wheel installed: that wheel is then what
an image or another interpreter must get.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import sglang_roce_entry

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = Path(sglang_roce_entry.__file__).parent


def copy_sources(folder: Path, *more: str) -> None:
    """Copy what pip builds the launcher from into ``folder``, and ``more`` folders of the checkout."""
    clean = shutil.ignore_patterns("__pycache__")
    for source in (PACKAGE, *(CHECKOUT / name for name in more)):
        shutil.copytree(source, folder / source.name, ignore=clean)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
