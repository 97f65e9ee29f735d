"""Which kubectl builds the manifests, and the sentence where none can."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.manifests.kubectl import INSTALL, find, kubectl


def _script(folder: Path, name: str, output: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return str(path)


def _version(minor: str) -> str:
    return f'{{"clientVersion": {{"major": "1", "minor": "{minor}", "gitVersion": "v1.{minor}.0"}}}}'


def test_the_first_that_is_new_enough_is_taken(tmp_path: Path) -> None:
    old, new = _script(tmp_path, "old", _version("20+")), _script(tmp_path, "new", _version("27"))
    assert find([old, new]).path == new
    assert find([new, old]).path == new


def test_too_old_absent_and_broken_are_said(tmp_path: Path) -> None:
    old, other = _script(tmp_path, "old", _version("26")), _script(tmp_path, "other", "no JSON")
    said = find([old, other, str(tmp_path / "absent")])
    assert said.path is None
    assert said.missing is not None
    for part in ("kubectl 1.27 or newer", f"{old} is v1.26.0", f"{other} does not tell its version", INSTALL):
        assert part in said.missing
    assert find([]).missing == f"the manifests need kubectl 1.27 or newer: {INSTALL}"


def test_the_interpreter_s_own_goes_first() -> None:
    own = Path(sys.executable).parent / "kubectl"
    if own.exists():
        assert kubectl().path == str(own)
    else:
        assert kubectl().path is not None


def test_the_test_extra_installs_the_same() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert INSTALL.split()[-1].strip("'") in re.findall(r'"([^"]*)"', pyproject.read_text())
