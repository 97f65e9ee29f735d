"""One InfiniBand subnet in files, for the library of ``stub/subnet.c``: ports, their LIDs, partitions and who finds whom."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sglang_roce_entry.verbs.layouts import AddressHandle
from tests.verbs.stubs import subnet_library

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_PREFIX = 0xFE80 << 48
FULL = 0xFFFF


def gid(prefix: int, guid: int) -> str:
    """Return a GID of 32 digits."""
    return f"{prefix << 64 | guid:032x}"


@dataclass
class Subnet:
    """``folder`` holds it; ``library`` is where its libibverbs is."""

    folder: Path
    library: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Subnet:
        """Compile the library below ``folder``, and return a subnet without ports."""
        made = cls(folder / "fabric", subnet_library(folder))
        for name in ("ports", "pairs"):
            (made.folder / name).mkdir(parents=True)
        return made

    def node(self, name: str) -> Subnet:
        """Return it as a node sees it that has only the ports which it is given there."""
        seen = Subnet(self.folder / name, self.library)
        (seen.folder / "ports").mkdir(parents=True)
        for shared in ("pairs", "handles"):
            (seen.folder / shared).symlink_to(self.folder / shared)
        return seen

    def port(
        self,
        device: str,
        lid: int,
        *,
        state: int = 4,
        prefix: int = DEFAULT_PREFIX,
        flags: int = 0,
        pkeys: tuple[int, ...] = (FULL,),
    ) -> None:
        """Add port 1 of a device, or give it other values. The last letter of its name is its GUID."""
        keys = ",".join(f"{key:x}" for key in pkeys)
        text = f"{state:x} {lid:x} {prefix:x} {ord(device[-1]):x} {flags:x} {keys}\n"
        (self.folder / "ports" / device).write_text(text)

    @property
    def environ(self) -> dict[str, str]:
        """The variables of a process that is in it."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.library), "SUBNET": str(self.folder)}

    def handles(self) -> list[AddressHandle]:
        """Return the address vectors that reached ``ibv_modify_qp``, and forget them."""
        file = self.folder / "handles"
        data, size = file.read_bytes(), ctypes.sizeof(AddressHandle)
        file.unlink()
        return [AddressHandle.from_buffer_copy(data, place) for place in range(0, len(data), size)]
