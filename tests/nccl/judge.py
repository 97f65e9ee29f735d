"""The judge: a released NCCL in a process of its own, asked through ``worker.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.nccl.nodes import tables_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.nccl.nodes import NodePort
    from tests.nccl.wheels import Release

HERE = Path(__file__).resolve().parent
VERBS_SOURCE = HERE / "verbs" / "libibverbs.c"
VERBS_SYMBOLS = HERE / "verbs" / "libibverbs.map"

#: NCCL's out-of-band sockets stay on loopback: every test has it, in any network namespace.
LOOPBACK = {"NCCL_SOCKET_IFNAME": "=lo", "NCCL_SOCKET_FAMILY": "AF_INET"}


def build_verbs_library(folder: Path) -> Path:
    """Return the verbs library, built into ``folder`` under both names that NCCL tries.

    Raises ``subprocess.CalledProcessError`` with the compiler's words in ``stderr``.
    """
    library = folder / "libibverbs.so.1"
    subprocess.run(
        [
            *("cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"),
            *("-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-soname,libibverbs.so.1"),
            f"-Wl,--version-script={VERBS_SYMBOLS}",
            *("-o", str(library), str(VERBS_SOURCE), "-ldl", "-lpthread"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    # 2.30 and later try the development name first, which may exist on this machine.
    (folder / "libibverbs.so").symlink_to("libibverbs.so.1")
    return library


class NcclDiedError(Exception):
    """NCCL ended the process that asked it."""


class Judge:
    """One NCCL release, answering until it is closed. Times are in seconds."""

    def __init__(self, release: Release, verbs: Path | None = None, *, prefix: Sequence[str] = ()) -> None:
        self.release = release
        # Nothing of the machine's own configuration may steer NCCL here.
        environment = {key: value for key, value in os.environ.items() if not _steers(key)}
        environment["NCCL_CONF_FILE"] = os.devnull
        arguments = [
            *prefix,
            *(sys.executable, str(HERE / "worker.py"), "--library", str(release.library)),
            *("--table-offset", str(release.net_table_offset), "--abi", str(release.plugin_abi)),
        ]
        if verbs is not None:
            environment["LD_PRELOAD"] = str(verbs)
            environment["LD_LIBRARY_PATH"] = str(verbs.parent)
            arguments += ["--verbs", str(verbs)]
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, kind: str, **question: Any) -> dict[str, Any]:
        """Return the worker's answer to one question (see ``worker.py``)."""
        stdin, stdout = self._pipes()
        stdin.write(json.dumps({"kind": kind, **question}) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the NCCL {self.release.version} worker ended: {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def devices(self, tree: Path, environment: Mapping[str, str]) -> list[tuple[str, int]]:
        """Return NCCL's own device table as (device, port) in NCCL's order."""
        answer = self.ask("devices", tree=str(tree), environment={**LOOPBACK, **environment})
        self._alive(answer)
        return [(entry["name"], entry["port"]) for entry in answer["devices"]]

    def connections(
        self, tree: Path, environment: Mapping[str, str], tables: Sequence[NodePort] = ()
    ) -> dict[tuple[str, int], int | None]:
        """Return the source GID index per (device, port) of NCCL's table; ``None``: connect failed.

        ``tables`` replace the GID tables of their ports in ``tree``. Fails if sender and receiver of one connection took different indices: the same port, the same
        table.
        """
        answer = self.ask(
            "connect", tree=str(tree), environment={**LOOPBACK, **environment}, tables=tables_of(tables)
        )
        self._alive(answer)
        taken: dict[tuple[str, int], int | None] = {}
        for entry in answer["devices"]:
            key = (entry["name"], entry["port"])
            if entry["rc"] != 0:
                taken[key] = None
                continue
            made = {tuple(transition) for transition in entry["transitions"]}
            if len(entry["transitions"]) != 2 or len(made) != 1:
                raise AssertionError(f"{key}: transitions {entry['transitions']}")
            ((device, port, index),) = made
            if (device, port) != key:
                raise AssertionError(f"{key} connected over {device}:{port}")
            taken[key] = index
        return taken

    def vectors(
        self, tree: Path, environment: Mapping[str, str], pairs: Sequence[tuple[str, str]]
    ) -> list[dict[str, dict[str, Any]]]:
        """Return the address vectors of each pair of devices that NCCL connects, by the device that uses them."""
        answer = self.ask("pairs", tree=str(tree), environment={**LOOPBACK, **environment}, pairs=pairs)
        self._alive(answer)
        failed = [pair for pair, one in zip(pairs, answer["pairs"], strict=True) if one["rc"] != 0]
        if failed:
            raise AssertionError(f"NCCL does not connect {failed}")
        return [one["vectors"] for one in answer["pairs"]]

    def bootstrap(self, environment: Mapping[str, str]) -> tuple[int | None, str | None]:
        """Return NCCL's result code and the address that its bootstrap listens on."""
        answer = self.ask("unique_id", environment=dict(environment))
        return answer["rc"], answer.get("address")

    def _alive(self, answer: Mapping[str, Any]) -> None:
        if answer["rc"] is None:
            raise NcclDiedError(f"NCCL {self.release.version} died: {answer}")

    def close(self) -> None:
        """End the worker."""
        stdin, stdout = self._pipes()
        stdin.close()
        deadline = time.monotonic() + 5
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        stdout.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the worker has no pipes")
        return stdin, stdout


def _steers(name: str) -> bool:
    return name.startswith(("NCCL_", "SGLANG_ROCE_", "LD_"))
