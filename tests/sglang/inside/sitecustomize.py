"""Lets SGLang be imported without its GPU packages: those named in MOCKED_PACKAGES import as mocks.

Python loads a `sitecustomize` from its path at every start, so the processes that SGLang spawns
have the mocks too. A mock of a class can be a base class, a mock of a function a decorator; nothing
of it computes anything. On a CPU, SGLang's own PyTorch code does the work of these packages.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOCKED = frozenset(os.environ.get("MOCKED_PACKAGES", "").split(",")) - {""}


def is_special(name: str) -> bool:
    """Return whether Python itself asks for the name, and means it."""
    return name.startswith("__") and name.endswith("__")


class Mock:
    """Stands for a function, a decorator, a submodule, a constant."""

    def __call__(self, *positional: Any, **named: Any) -> Any:
        if len(positional) == 1 and not named and callable(positional[0]):
            return positional[0]  # a decorator without arguments
        return self

    def __getattr__(self, name: str) -> Mock:
        if is_special(name):
            raise AttributeError(name)
        return Mock()

    def __getitem__(self, key: object) -> Mock:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __or__(self, other: object) -> Mock:
        return self

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (object,)


class MockClass(type):
    """The class of mocked classes, whose members are mocks (enumerations, class methods)."""

    def __getattr__(cls, name: str) -> Mock:
        if is_special(name):
            raise AttributeError(name)
        return Mock()


class MockModule(types.ModuleType):
    """A module that has every name: a class where it begins with a capital, else a mock."""

    def __getattr__(self, name: str) -> Any:
        if is_special(name):
            raise AttributeError(name)
        made: Any = Mock()
        if name.lstrip("_")[:1].isupper():
            made = MockClass(name, (), {"__init__": lambda self, *positional, **named: None})
        setattr(self, name, made)
        return made


class MockFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the mocked packages and everything below them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a mock; None leaves the name to the others."""
        if fullname.partition(".")[0] not in MOCKED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Return the mock of the module."""
        module = MockModule(spec.name)
        module.__path__ = []
        module.__file__ = "<mock>"
        module.__dict__["__version__"] = "0.0.0"
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: a mock has no code."""


sys.meta_path.insert(0, MockFinder())
