"""Imports go one way, and a run loads only what it needs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sglang_roce_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(sglang_roce_entry.__file__).parent
NAME = "sglang_roce_entry"

#: What each room may import of the package, beside itself and the vocabulary in errors.py, natural.py and records.py.
ALLOWED: dict[str, set[str]] = {
    "host": set(),
    "fabric": {"host"},
    "group": set(),
    "server": {"group", "host"},
    # The pure lines of a check; only run and way know how the facts come about.
    "check": {"host", "fabric", "group", "server", "plan", "report", "launch", "command_line", "settings", "log"},
    "settings": {"fabric"},
    "handover": set(),
    "log": set(),
}
VOCABULARY = {"errors", "natural", "records", "yaml_text"}
#: Modules of another room that hold values only.
VALUES = {("fabric", "host"): {"host.facts", "host.rdma"}, ("server", "host"): {"host.facts"}}
#: The lines of a check: facts and plan in, lines out. "way" is handed what it tries.
PURE_CHECKS = tuple(
    f"check.{name}" for name in ("items", "launch", "rdma", "memory", "names", "variables", "versions", "way")
)
PROBES = ("server.probe", "server.health", "server.running", "group.path_mtu", "host.inspection")
PURE = {
    "plan", "neighbours", "report", "matrix", "fingerprint", "group.identity", "group.endpoint", "server.command",
    "server.disaggregation", "server.gpu_count", *PURE_CHECKS,
}  # fmt: skip
NOT_FOR_PURE = {"os", "socket", "subprocess", "psutil", "requests", "pyudev", "time", "resource", "signal"}


def _modules() -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], ".".join(parts), ast.parse(path.read_text())


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(("room", "module", "tree"), list(_modules()), ids=lambda value: str(value)[:40])
def test_imports_go_one_way(room: str, module: str, tree: ast.Module) -> None:
    if room not in ALLOWED:
        return
    for name in _imports(tree):
        if not name.startswith(f"{NAME}."):
            continue
        inner = name.removeprefix(f"{NAME}.")
        other = inner.split(".")[0]
        assert other == room or other in VOCABULARY or other in ALLOWED[room], f"{module} imports {inner}"
        if (room, other) in VALUES and inner != other:
            assert inner in VALUES[room, other], f"{module} imports {inner}"


def test_a_launch_loads_nothing_of_check_and_probe() -> None:
    loaded = _loaded("--dry-run", "--model-path", "/m")
    ours = {name.removeprefix(f"{NAME}.") for name in loaded if name.startswith(f"{NAME}.")}
    assert not {name for name in ours if name.startswith("check") or name in PROBES}


def test_decisions_touch_nothing_outside() -> None:
    for room, module, tree in _modules():
        if room == "fabric" or module in PURE:
            touched = {name.split(".")[0] for name in _imports(tree)} & NOT_FOR_PURE
            assert not touched, f"{module} imports {touched}"
            calls = {
                node.func.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert "open" not in calls, module


def test_only_the_command_line_reads_the_process_environment() -> None:
    for _, module, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                owner = node.value
                if isinstance(owner, ast.Name) and owner.id == "os":
                    assert module == "cli", f"{module} reads os.{node.attr}"


#: dataclasses brings inspect along; values are made by records.py.
HEAVY = (
    *("psutil", "pyudev", "yaml", "requests", "tenacity"),
    *("argparse", "dataclasses", "difflib", "importlib.metadata", "inspect", "tarfile"),
)


def _loaded(*argv: str) -> set[str]:
    code = (
        "import sys; from sglang_roce_entry.command.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('LOADED', *sorted(sys.modules), file=sys.stderr)"
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("LWS_", "SGLANG_", "NCCL_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:])


@pytest.mark.parametrize(
    ("argv", "needed"),
    [
        (("--version",), set()),
        (("--help",), set()),
        (("--dry-run", "--model-path", "/m"), {"psutil"}),
        (("--snapshot", "h20-roce", "--print-env"), {"tarfile"}),
        (("--snapshot", "h20-roce", "--check"), {"tarfile"}),
        (("--check", "--model-path", "/m"), {"psutil"}),
        (("--probe", "liveness"), {"psutil"}),
        (("--probe", "liveness", "--", "--port", "1"), {"psutil"}),
    ],
)
def test_a_run_loads_only_what_it_needs(argv: tuple[str, ...], needed: set[str]) -> None:
    assert _loaded(*argv) & set(HEAVY) == needed


def test_only_type_checkers_load_typing() -> None:
    for _, module, tree in _modules():
        if module == "host.asked":
            continue  # protocols alone, loaded by nobody
        at_run_time = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {name for node in at_run_time for name in _imports(ast.Module([node], []))}
        assert "typing" not in names, module
        assert f"{NAME}.host.asked" not in names, module
