"""What ``docker/install.py`` says where a build cannot go on; the builds themselves are in ``tests/container``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


WHEELS = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import install
install.require_own_wheel(pathlib.Path(sys.argv[2], "wheels"), pathlib.Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("wheels", "said"),
    [
        (["sglang_roce_entry-3.1.0-py3-none-any.whl"], ""),
        (["sglang_roce_entry-3.0.9-py3-none-any.whl"], "holds sglang_roce_entry-3.0.9-py3-none-any.whl, and"),
        (["sglang_roce_entry-3.1.0rc1-py3-none-any.whl"], "the checkout is sglang_roce_entry-3.1.0:"),
        (["sglang_roce_entry-3.1.0-py3-none-any.whl", "requests-2.0-py3-none-any.whl"], "requests-2.0"),
        ([], "holds no wheel"),
    ],
)
def test_a_wheel_of_another_build_is_not_installed(tmp_path: Path, wheels: list[str], said: str) -> None:
    (tmp_path / "sglang_roce_entry").mkdir()
    (tmp_path / "sglang_roce_entry/__init__.py").write_text('"""The launcher."""\n\n__version__ = "3.1.0"\n')
    (tmp_path / "wheels").mkdir()
    for name in wheels:
        (tmp_path / "wheels" / name).touch()
    ran = _ran(WHEELS, str(INSTALL.parent), str(tmp_path))
    assert (ran.returncode == 0) == (said == ""), ran.stderr
    assert said in ran.stderr


REPORT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import install
install.report_base_entrypoint(pathlib.Path(sys.argv[2]))
"""
# As in nvidia/cuda: it prints, and exports one name that means that there is no GPU.
PRINTS = 'echo "WARNING: The NVIDIA Driver was not detected."\nexport NVIDIA_CPU_ONLY=1\nFOUND=$(ls /dev)\n'
SETS = "if true; then\n  export COMPAT_STATUS=ok\n  LD_LIBRARY_PATH=/compat:${LD_LIBRARY_PATH}\nfi\n"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, []),
        ({"50-gpu.sh": PRINTS, "30-license.txt": "export LICENSE\n"}, []),
        (
            {"05-compat.sh": SETS, "50-gpu.sh": PRINTS},
            ["05-compat.sh, which sets COMPAT_STATUS, LD_LIBRARY_PATH;"],
        ),
    ],
)
def test_a_base_entrypoint_that_sets_something_is_named(
    tmp_path: Path, parts: dict[str, str], said: list[str]
) -> None:
    (tmp_path / "entrypoint.d").mkdir()
    for name, text in parts.items():
        (tmp_path / "entrypoint.d" / name).write_text(text)
    entrypoint = tmp_path / "nvidia_entrypoint.sh"
    assert _ran(REPORT, str(INSTALL.parent), str(entrypoint)).stderr == ""  # the parts alone do nothing
    entrypoint.touch()
    ran = _ran(REPORT, str(INSTALL.parent), str(entrypoint))
    assert ran.returncode == 0, ran.stderr
    lines = ran.stderr.splitlines()
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part in line
        assert f"put {entrypoint} before sglang-roce-entry" in line
