"""The house: imports go one way, decisions are pure, everything has one home, and nothing grows too large."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

import sglang_roce_entry

PACKAGE = Path(sglang_roce_entry.__file__).parent
NAME = "sglang_roce_entry"

#: What everything may import; of ours they import only each other.
VOCABULARY = {
    "__init__",
    "invocation",
    "problems",
    "codes",
    "log",
    "named_file",
    "natural",
    "output",
    "probe_kinds",
    "unexpanded",
    "yaml_text",
}
#: The values that a user's command line becomes: read where they are used, made in command/ alone.
SETTINGS = ("command.settings", "command.command_line")
#: What a room may import beside itself and the vocabulary: rooms, or of a room these modules only.
ALLOWED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(VOCABULARY, ()),
    "host": (),
    "fabric": ("host.facts", "host.rdma"),
    "fabric.consumers": ("fabric", "host.facts"),
    "group": (),
    "verbs": (),
    # What it tells fabric is one value, whose type is fabric's.
    "server": ("group", "host.facts", "host.installed", "fabric.use"),
    "plan": ("host", "fabric", "group", "server", "verbs"),
    "report": ("host", "fabric", "group", "server", "plan"),
    "check": ("host", "fabric", "group", "server", "plan", "report", "verbs"),
    "launch": ("host", "fabric", "group", "server", "plan", "report", "verbs"),
    "command": ("host", "fabric", "group", "server", "plan", "report", "check", "launch"),
    "__main__": ("command",),
}
#: In a pure room, the file that gathers what the others are told.
GATHERS = {"check.run", "plan.inputs"}

#: Files and rooms that decide or render: facts in, values out.
PURE = (
    *("fabric", "plan", "report", "check"),
    *("group.contradiction", "group.endpoint", "group.evidence", "group.identity", "group.sources"),
    *("server.arguments", "server.spellings", "server.command", "server.ports", "server.gpu_count", "server.transfer"),
)  # fmt: skip
OUTSIDE = {
    *("os", "io", "time", "select", "socket", "signal", "subprocess", "threading", "resource", "ctypes"),
    *("psutil", "pyudev", "tenacity"),
}

#: Third-party packages, each at the top of the modules that wrap it. Those are loaded where a run comes to need them.
THIRD_PARTY = {
    "psutil": {"host.live_interfaces"},
    "pyudev": {"launch.kernel_events"},
    "tenacity": {"group.retrying"},
    "yaml": {"yaml_text"},
}
#: What few probes need, and which would add much to the cost of all.
RARE = {"server.probe.grpc", "server.probe.ranks", "server.probe.resolving", "server.probe.tls"}
WRAPPERS = set().union(*THIRD_PARTY.values(), RARE)
#: Where the forms of the command part: each imports its own stage, so that a probe loads nothing of a launch.
FORMS = {"command.cli", "command.forms"}
#: Where a document becomes a page to look at, which is loaded for that alone.
PAGES = {"command.modes", "command.rehearse"}
#: What comes before them: a signal counts from its first line on, so that it loads the rest late.
START = "__main__"

FILE_LINES, FUNCTION_LINES, ROOM_FILES, SHARED_LINES = 350, 60, 12, 6
#: A table, not code.
LONG = {"codes"}
#: One name in several rooms, because it means the same there.
SAME_MEANING = {
    "__init__": "a room",
    "card": "the card of a node: made of a plan, read and compared by group",
    "command": "SGLang's command: composed by server, a line of check",
    "names": "host names: resolved by group, a line of check",
    "peers": "whom SGLang's sockets may accept: told by group, wanted by plan",
    "rdma": "HCAs and their ports: read by host, a line of check",
}


@dataclass(frozen=True)
class Module:
    """One file of the package; ``name`` is without the package's."""

    name: str
    source: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def room(self) -> str:
        first, *rest = self.name.split(".")
        return "fabric.consumers" if first == "fabric" and rest[:1] == ["consumers"] else first

    def imports(self, nodes: Iterator[ast.AST] | None = None) -> set[str]:
        """Return the full names of the modules that are imported, anywhere or by ``nodes``."""
        found = set()
        for node in nodes or ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}: imports are absolute"
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                inner = {name for name in names if name.removeprefix(f"{NAME}.") in _names()}
                found |= inner or {str(node.module)}
        return found - {"__future__"}

    def imports_of_ours(self) -> set[str]:
        return {name.removeprefix(f"{NAME}.") for name in self.imports() if name.startswith(f"{NAME}.")}

    def imports_in_functions(self) -> set[str]:
        functions = (
            node for node in ast.walk(self.tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        )
        return self.imports(inner for function in functions for inner in ast.walk(function))


def _paths() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _named(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def _names() -> set[str]:
    return {_named(path) for path in _paths()}


@cache
def modules() -> tuple[Module, ...]:
    return tuple(Module(_named(path), path.read_text(), ast.parse(path.read_text())) for path in _paths())


def within(name: str, places: tuple[str, ...]) -> bool:
    """Return whether module ``name`` is one of ``places``, or in one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


every_module = pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)


# ----------------------------------------------------------------------------------------- direction


def test_every_room_has_its_rule() -> None:
    assert {module.room for module in modules()} <= set(ALLOWED)


@every_module
def test_imports_go_one_way(module: Module) -> None:
    allowed = (module.room, *VOCABULARY, *ALLOWED[module.room])
    if module.name == "check.run":
        allowed += ("launch",)
    upwards = {name for name in module.imports_of_ours() if not within(name, allowed)}
    if module.room == "fabric":
        upwards |= {name for name in module.imports_of_ours() if within(name, ("fabric.consumers",))}
    assert not upwards, f"{module.name} imports {sorted(upwards)}"


def test_consumers_do_not_know_each_other() -> None:
    for module in modules():
        if module.room == "fabric.consumers" and module.name != "fabric.consumers":
            siblings = {name for name in module.imports_of_ours() if within(name, ("fabric.consumers",))}
            assert not siblings, f"{module.name} imports {sorted(siblings)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A module that wraps a package may know the one that loads it, late."""
    graph = {module.name: module.imports_of_ours() - WRAPPERS for module in modules()}
    while ends := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in ends}
    while starts := graph.keys() - set().union(*graph.values()):
        graph = {name: needed for name, needed in graph.items() if name not in starts}
    assert not graph, f"in a circle, or between two: {sorted(graph)}"


@every_module
def test_decisions_touch_nothing_outside(module: Module) -> None:
    if not within(module.name, PURE) or module.name in GATHERS:
        return
    touched = {name.split(".")[0] for name in module.imports()} & OUTSIDE
    assert not touched, f"{module.name} imports {touched}"
    called = {
        node.func.id
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "input", "print", "exec", "eval", "__import__"}


def test_only_the_command_line_reads_the_process_environment() -> None:
    names = {"environ", "environb", "getenv", "getenvb"}
    for module in modules():
        read = {
            node.attr
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
        }
        read |= {
            alias.name
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert module.room == "command" or not read & names, f"{module.name} reads os.{read & names}"


# ----------------------------------------------------------------------------------------- plain Python


def _words(module: Module) -> Iterator[str]:
    """Yield every name that the code uses."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@every_module
def test_imports_stand_at_the_top(module: Module) -> None:
    """But for what only one stage needs: a module that wraps a package, each form of the command, a page."""
    late = {name.removeprefix(f"{NAME}.") for name in module.imports_in_functions()}
    if module.name == START:
        late -= FORMS
    if module.name in FORMS:
        late = {name for name in late if not within(name, ("command", "launch.handover"))}
    if module.name in PAGES:
        late = {name for name in late if not within(name, ("report.page",))}
    if module.name == "launch.launch":
        late -= {"launch.meeting"}  # one node meets nobody
    assert late <= WRAPPERS, f"{module.name} imports {sorted(late - WRAPPERS)} in a function"


def test_a_third_party_package_has_one_home() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        for name in module.imports():
            package = name.split(".")[0]
            if package not in sys.stdlib_module_names and package != NAME:
                homes[package].add(module.name)
    assert homes == THIRD_PARTY


@every_module
def test_python_is_plain(module: Module) -> None:
    """Annotations are lazy from 3.14 on: nothing may look at them. Nothing is different for type checkers."""
    strange = {"TYPE_CHECKING", "__annotations__", "__annotate__", "get_type_hints", "get_annotations"}
    assert not strange & set(_words(module))


# ----------------------------------------------------------------------------------------- size and names


@every_module
def test_nothing_grows_too_large(module: Module) -> None:
    lines = module.source.count("\n")
    assert lines <= FILE_LINES or module.name in LONG, f"{module.name} has {lines} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{module.name}.{node.name} has {length} lines"


def test_a_room_can_be_overlooked() -> None:
    files: dict[Path, int] = defaultdict(int)
    for path in _paths():
        files[path.parent] += path.name != "__init__.py"
    crowded = {str(folder.relative_to(PACKAGE)): number for folder, number in files.items() if number > ROOM_FILES}
    assert not crowded


def test_a_name_means_one_thing() -> None:
    rooms: dict[str, list[str]] = defaultdict(list)
    for path in _paths():
        rooms[path.stem].append(str(path.parent.relative_to(PACKAGE)))
    shared = {name: where for name, where in rooms.items() if len(where) > 1 and name not in SAME_MEANING}
    assert not shared
    assert {name for name in SAME_MEANING if len(rooms[name]) < 2} == set()


# ----------------------------------------------------------------------------------------- no idea twice


_TEXT_ALONE = re.compile(r"""(["'])[^"']*\1,?$""")


def logic(source: str) -> list[tuple[int, str]]:
    """Return the lines that do something, stripped, with their numbers."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            assert isinstance(node, ast.stmt)
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = (
        (number, re.sub(r"(^|\s+)#.*", "", line).strip()) for number, line in enumerate(source.splitlines(), 1)
    )
    return [(number, line) for number, line in numbered if number not in left_out and re.search(r"\w", line)]


def shared_runs(sources: Mapping[str, str], lines: int) -> list[tuple[str, str]]:
    """Return the pairs of places, ``file:line``, from where ``lines`` lines of logic are the same."""
    first: dict[tuple[str, ...], str] = {}
    pairs = []
    for name, source in sources.items():
        rows = logic(source)
        for start in range(len(rows) - lines + 1):
            run = tuple(line for _, line in rows[start : start + lines])
            place = f"{name}:{rows[start][0]}"
            if all(_TEXT_ALONE.match(line) for line in run):
                continue  # names in a table
            if run in first:
                pairs.append((first[run], place))
            first.setdefault(run, place)
    return pairs


def test_no_two_places_share_their_logic() -> None:
    assert not shared_runs({module.name: module.source for module in modules()}, SHARED_LINES)


def test_shared_logic_would_be_found() -> None:
    body = [f"a{number} = {number}" for number in range(6)]
    one = "import os\n" + "\n".join(body)
    other = "def f():\n" + "\n".join(
        f'    """No line of code."""\n    # nor this\n\n    {line}  # said' for line in body
    )
    assert shared_runs({"one": one, "other": other}, 6) == [("one:2", "other:5")]
    assert shared_runs({"one": "\n".join([*body, "b", *body])}, 6) == [("one:1", "one:8")]
    assert not shared_runs({"one": one, "other": "\n".join(body[:5])}, 6)
    table = "NAMES = (\n" + "\n".join(f'    "NAME_{number}",  # read' for number in range(9)) + "\n)"
    assert not shared_runs({"one": table, "other": table.replace("NAMES", "OTHERS")}, 6)
