"""What ``docker/install.py`` says where a build cannot go on; the builds themselves are in ``tests/container``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

INSTALL = Path(__file__).parent.parent / "docker" / "install.py"
AS_NOBODY = """
import os, sys
sys.path.insert(0, sys.argv[1])
import install
if os.getuid() == 0:
    os.setgroups([]), os.setgid(install.NOBODY), os.setuid(install.NOBODY)
install.shutil.which = lambda _: sys.argv[2]
install.require_command("1")
"""


def _ran(*argv: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "VERSION"}
    return subprocess.run(
        [sys.executable, "-c", *argv], capture_output=True, text=True, env=environ, cwd="/", check=False
    )


def test_an_image_that_is_not_built_as_root_is_tried_as_its_own_user() -> None:
    ran = _ran(AS_NOBODY, str(INSTALL.parent), "/bin/true")
    assert ran.returncode == 0, ran.stderr
    ran = _ran(AS_NOBODY, str(INSTALL.parent), "/bin/false")
    assert "RefusedBuildError: /bin/false does not run as uid " in ran.stderr


def test_a_pip_that_fails_is_one_sentence() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import install\n"
        "install.require_sglang = install.require_writable_packages = lambda: None\n"
        "install.sys.executable = '/bin/false'\n"
        "sys.exit(install.main(['install', '/nowhere']))"
    )
    ran = _ran(code, str(INSTALL.parent))
    assert ran.returncode == 1
    assert ran.stderr == "docker/install.py: /bin/false -m pip list --format=json failed; its message is above\n"
