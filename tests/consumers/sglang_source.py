"""SGLang's own functions on device options, taken by name from the source in a released wheel and run alone."""

from __future__ import annotations

import ast
import json
import logging
import os
import zipfile
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Where releases keep the functions.
_MODULES = (
    "sglang/srt/distributed/device_communicators/mooncake_transfer_engine.py",
    "sglang/srt/arg_groups/validation_hook.py",
    "sglang/srt/server_args.py",
)
_FUNCTIONS = ("parse_ib_device_config", "get_ib_devices_for_gpu", "validate_ib_devices", "_validate_ib_devices")
NIXL = "sglang/srt/disaggregation/nixl/conn.py"


class Validator:
    """The validation of one release, with a /sys/class/infiniband that holds ``devices``."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            present = set(archive.namelist())
            texts = [archive.read(name).decode() for name in _MODULES if name in present]
            self.nixl = archive.read(NIXL).decode()
        self._names: dict[str, Any] = {
            "json": json, "os": os, "logger": logging.getLogger("sglang"),
            "Optional": Any, "Union": Any, "Dict": Any, "List": Any,
        }  # fmt: skip
        self._names = {**self._names, "Optional": _Subscript(), "Union": _Subscript(), "Dict": _Subscript()}
        for text in texts:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef) and node.name in _FUNCTIONS:
                    # Imports inside are of SGLang's own functions, which are here by name already.
                    node.body = [one for one in node.body if not isinstance(one, ast.ImportFrom)]
                    for part in ast.walk(node):
                        if isinstance(part, ast.Constant) and part.value == "/sys/class/infiniband":
                            part.value = "/infiniband"
                    exec(ast.unparse(node), self._names)

    def validate(self, value: str, devices: Iterable[str]) -> str:
        """Return the value as SGLang normalises it. Raises what SGLang raises."""
        with mock.patch("os.path.isdir", return_value=True), mock.patch("os.listdir", return_value=list(devices)):
            if "validate_ib_devices" in self._names:
                return str(self._names["validate_ib_devices"](value))
            return str(self._names["_validate_ib_devices"](None, value))

    def for_gpu(self, value: str, gpu: int) -> str:
        """Return the HCAs that SGLang gives to one GPU."""
        return str(self._names["get_ib_devices_for_gpu"](value, gpu))


class _Subscript:
    """Stands for ``typing``'s generics in annotations that are evaluated."""

    def __getitem__(self, key: object) -> object:
        return object
