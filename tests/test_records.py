"""Our value classes behave as the standard library's frozen dataclasses with slots do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from ipaddress import IPv4Address
from typing import Any

import pytest

from sglang_roce_entry import records
from sglang_roce_entry.host.facts import Gpus, Route


def _make(module: Any) -> Any:
    class Port:
        """A port."""

        name: str
        number: int = 1
        gids: dict[int, str] = module.field(default_factory=dict)

        @property
        def label(self) -> str:
            return f"{self.name}:{self.number}"

        @classmethod
        def first(cls, name: str) -> Any:
            make: Any = cls
            return make(name)

    return module.dataclass(frozen=True, slots=True)(Port)


OURS, THEIRS = _make(records), _make(dataclasses)
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("mlx5_0",), {}),
    (("mlx5_0", 2), {}),
    (("mlx5_0",), {"number": 2}),
    ((), {"name": "mlx5_0", "gids": {3: "10.0.0.1"}}),
    ((), {}),
    ((), {"number": 2}),
    (("a", 1, {}, 4), {}),
    (("a",), {"rate": 4}),
    (("a",), {"name": "b"}),
]


def _outcome(made: Any, values: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        port = made(*values, **named)
    except TypeError:
        return TypeError
    return port.name, port.number, port.gids, port.label, repr(port).rpartition(".")[2]


@pytest.mark.parametrize(("values", "named"), CALLS)
def test_made_alike(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    assert _outcome(OURS, values, named) == _outcome(THEIRS, values, named)


@pytest.mark.parametrize(("module", "made"), [(records, OURS), (dataclasses, THEIRS)], ids=["ours", "theirs"])
def test_behave_alike(module: Any, made: Any) -> None:
    port = made("mlx5_0", 1, {})
    assert port == made.first("mlx5_0")
    assert port != made("mlx5_0", 2)
    assert port != ("mlx5_0", 1, {})
    assert port.gids is not made("mlx5_0").gids
    with pytest.raises(AttributeError):
        port.name = "x"
    with pytest.raises(AttributeError):
        del port.name
    # A slot that is not there is refused as well, by a TypeError in some releases of the library.
    with pytest.raises((AttributeError, TypeError)):
        port.rate = 4
    assert not hasattr(port, "__dict__")
    assert module.replace(port, number=7) == made("mlx5_0", 7)
    with pytest.raises(TypeError):
        module.replace(port, rate=4)
    assert copy.deepcopy(port) == port
    with pytest.raises(TypeError):
        hash(port)  # a dictionary is in it
    assert made.__doc__ == "A port."
    match port:
        case made(name, number):
            assert (name, number) == ("mlx5_0", 1)
        case _:
            pytest.fail("no match")


def test_equal_values_hash_alike_and_survive_pickling() -> None:
    route = Route("eth0", IPv4Address("10.0.0.1"))
    assert hash(route) == hash(Route("eth0", IPv4Address("10.0.0.1")))
    assert pickle.loads(pickle.dumps(route)) == route
    other: object = Gpus()
    assert route != other


@pytest.mark.parametrize("options", [{"frozen": True, "slots": False}, {"frozen": False, "slots": True}])
def test_nothing_else_is_offered(options: dict[str, bool]) -> None:
    make: Any = records.dataclass
    with pytest.raises(TypeError):
        make(**options)


def test_a_record_has_no_base() -> None:
    derived = type("Derived", (OURS,), {"__annotations__": {"rate": "float"}})
    with pytest.raises(TypeError, match="Derived"):
        records.dataclass(frozen=True, slots=True)(derived)
