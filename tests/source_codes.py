"""The codes that the package can report, collected from its source.

A call of a constructor of problems has its code as a text; so has a call of any function that only hands its
parameter ``code`` on to one.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import sglang_roce_entry
from sglang_roce_entry import problems
from sglang_roce_entry.fabric.constraints import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(sglang_roce_entry.__file__).parent
_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,}")

#: Where the code stands among the arguments of each constructor.
_CONSTRUCTORS = {
    "error": 0,
    "warning": 0,
    "rdma_value": 0,
    "config_value": 0,
    "config_error": 0,
    "EntryError": 0,
    "ConfigurationError": 0,
    "Problem": 1,
    "Key": 2,  # of the table of what a group must share
    "Fault": 0,  # of a rail
}

Place = dict[str, int]


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _code_of(call: ast.Call, places: Place) -> ast.expr | None:
    """Return the argument that is the code, ``None`` if the call makes no problem."""
    name = _name(call)
    if name == "__init__" and isinstance(call.func, ast.Attribute) and len(call.args) > 2:
        return call.args[0]  # of an exception that is derived from one of those
    if name not in places:
        return None
    for keyword in call.keywords:
        if keyword.arg == "code":
            return keyword.value
    return call.args[places[name]] if len(call.args) > places[name] else None


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _wrappers(tree: ast.AST) -> Place:
    """Return the functions of a module that hand a parameter ``code`` on, with its position."""
    places = dict(_CONSTRUCTORS)
    for _ in range(2):  # a wrapper of a wrapper
        for function in _functions(tree):
            parameters = [one.arg for one in function.args.args]
            if "code" in parameters and any(
                isinstance(code := _code_of(call, places), ast.Name) and code.id == "code"
                for call in _calls(function)
            ):
                places[function.name] = parameters.index("code")
    return places


def codes_of(source: str) -> tuple[set[str], list[str]]:
    """Return the codes in a module's source, and the calls whose code is not written there."""
    tree = ast.parse(source)
    places = _wrappers(tree)
    found: set[str] = set()
    unread: list[str] = []
    for call in _calls(tree):
        code = _code_of(call, places)
        if code is None or isinstance(code, ast.Attribute) or (isinstance(code, ast.Name) and code.id == "code"):
            continue  # of a problem that was made elsewhere
        texts = [node.value for node in ast.walk(code) if isinstance(node, ast.Constant)]
        codes = {text for text in texts if isinstance(text, str) and _CODE.fullmatch(text)}
        found |= codes
        if not codes and _name(call) != "__init__":
            unread.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found, unread


def problem_codes() -> set[str]:
    """Return the codes of all problems of the package; fails where one cannot be read."""
    found: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        codes, unread = codes_of(path.read_text(encoding="utf-8"))
        assert not unread, f"{path.relative_to(PACKAGE)}: write the code of each problem out: {unread}"
        found |= codes
    return found


def reason_codes() -> set[str]:
    """Return the reasons why a port is not used."""
    return {value for name, value in vars(Reason).items() if not name.startswith("_")}


def exit_codes() -> set[str]:
    """Return the exit codes: the constants of the package, and those of the two signals that it handles."""
    constants = {value for value in vars(problems).values() if type(value) is int}
    return {str(code) for code in constants | {128 + 2, 128 + 13, 128 + 15}}
