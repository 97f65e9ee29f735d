"""Frozen value classes with slots: what this program uses of ``dataclasses``, cheap to define.

A launch defines some fifty of them before it does anything. ``dataclasses`` brings ``inspect`` along and
compiles half a dozen methods for each class, which costs more than two starts of the interpreter. Here
all classes share one set of methods. Type checkers see the standard library's own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass, field, replace
    from typing import Any

__all__ = ["dataclass", "field", "replace"]

if not TYPE_CHECKING:

    class _Factory:
        """A default that is made anew for each instance."""

        __slots__ = ("make",)

        def __init__(self, make: Callable[[], Any]) -> None:
            self.make = make

    def field(*, default_factory: Callable[[], Any]) -> _Factory:
        """Return a default that ``default_factory`` makes for each instance."""
        return _Factory(default_factory)

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """Return a decorator that makes a class of annotated fields a frozen value with slots.

        Anything but ``frozen=True, slots=True`` is refused, and so is a class with a base.
        """
        if not (frozen and slots):
            raise TypeError("only frozen=True, slots=True")
        return _record

    def replace(record: Any, /, **changes: Any) -> Any:
        """Return a copy of ``record`` with some fields changed."""
        for name in record._fields:
            if name not in changes:
                changes[name] = getattr(record, name)
        return type(record)(**changes)

    def _record(cls: type) -> type:
        if cls.__bases__ != (object,):
            raise TypeError(f"{cls.__name__}: a record has no base")
        names = tuple(cls.__annotations__)
        namespace = dict(cls.__dict__)
        defaults = {name: namespace.pop(name) for name in names if name in namespace}
        for name in ("__dict__", "__weakref__"):
            namespace.pop(name, None)
        namespace.update(__slots__=names, __match_args__=names, _fields=names, _defaults=defaults)
        made = type(cls.__name__, (_Record,), namespace)
        # A slot's own setter passes the refusing __setattr__ by.
        made._setters = tuple(made.__dict__[name].__set__ for name in names)  # noqa: SLF001
        return made

    def _values(record: Any) -> tuple[Any, ...]:
        return tuple([getattr(record, name) for name in record._fields])

    class _Record:
        """What all records do; a base is cheaper than methods of each class's own."""

        __slots__ = ()

        def __init__(self, *values: Any, **named: Any) -> None:
            fields = self._fields
            if len(values) > len(fields):
                raise TypeError(f"{type(self).__name__} takes {len(fields)} values, {len(values)} were given")
            for position, setter in enumerate(self._setters):
                if position < len(values):
                    setter(self, values[position])
                else:
                    name = fields[position]
                    if name in named:
                        setter(self, named.pop(name))
                    elif name in self._defaults:
                        default = self._defaults[name]
                        setter(self, default.make() if type(default) is _Factory else default)
                    else:
                        raise TypeError(f"{type(self).__name__} lacks {name!r}")
            if named:
                raise TypeError(f"{type(self).__name__} has no place for {', '.join(named)}")

        def __eq__(self, other: object) -> Any:
            return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

        def __hash__(self) -> int:
            return hash(_values(self))

        def __repr__(self) -> str:
            inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
            return f"{type(self).__qualname__}({inside})"

        def __setattr__(self, name: str, _value: object = None) -> None:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

        def __reduce__(self) -> Any:
            return type(self), _values(self)

        __delattr__ = __setattr__
