"""Every structure and number of `verbs/layouts.py`, compared with `infiniband/verbs.h` as a compiler sees it.

No program of the other architecture is run: the compiler writes the numbers into the data of an object file.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.verbs import layouts
from tests.layers import skip_or_fail
from tests.verbs.stubs import HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The structures by their C names.
STRUCTURES = {
    layouts.Gid: "union ibv_gid",
    layouts.PortAttributes: "struct ibv_port_attr",
    layouts.QpCapabilities: "struct ibv_qp_cap",
    layouts.QpInitAttributes: "struct ibv_qp_init_attr",
    layouts.GlobalRoute: "struct ibv_global_route",
    layouts.AddressHandle: "struct ibv_ah_attr",
    layouts.QpAttributes: "struct ibv_qp_attr",
    layouts.Segment: "struct ibv_sge",
    layouts.SendRequest: "struct ibv_send_wr",
    layouts.ReceiveRequest: "struct ibv_recv_wr",
    layouts.Completion: "struct ibv_wc",
    layouts.MemoryRegion: "struct ibv_mr",
    layouts.Qp: "struct ibv_qp",
    layouts.ContextOperations: "struct ibv_context_ops",
    layouts.Context: "struct ibv_context",
}
#: Fields that C calls otherwise, or (`None`) that only keep room for others.
RENAMED = {
    "remote_addr": "wr.rdma.remote_addr",
    "rkey": "wr.rdma.rkey",
    **dict.fromkeys(("halves", "room", "tail", "before_poll_cq", "before_post_send", "after_post_recv")),
}
PREFIXES = ("QPT_", "QPS_", "QP_", "WC_", "WR_", "ACCESS_", "SEND_", "PORT_", "LINK_", "QPF_")
COMPILERS = {
    "x86_64": ("gcc", "objcopy", "gcc binutils"),
    "aarch64": (
        "aarch64-linux-gnu-gcc",
        "aarch64-linux-gnu-objcopy",
        "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    ),
}


def expected() -> list[tuple[str, int]]:
    """Return C expressions, and what they are by our layouts."""
    rows = []
    for kind, name in STRUCTURES.items():
        if kind in layouts.SIZES:
            rows.append((f"sizeof({name})", ctypes.sizeof(kind)))
        fields: Sequence[tuple[str, Any]] = vars(kind)["_fields_"]
        for field, _ in fields:
            # `rkey` is a member of its own in struct ibv_mr.
            known = RENAMED.get(field, field) if kind is not layouts.MemoryRegion else field
            if known is None:
                continue
            ours = getattr(kind, field)
            rows.append((f"offsetof({name}, {known})", ours.offset))
            rows.append((f"sizeof((({name} *)0)->{known})", ours.size))
    rows += [(f"IBV_{name}", number) for name, number in vars(layouts).items() if name.startswith(PREFIXES)]
    return rows + [(f"IBV_MTU_{size}", number) for number, size in layouts.MTU_BYTES.items()]


@pytest.mark.parametrize("architecture", COMPILERS)
def test_layouts_are_those_of_the_header(architecture: str, tmp_path: Path) -> None:
    compiler, objcopy, packages = COMPILERS[architecture]
    if not HEADER.exists():
        skip_or_fail("verbs", "needs <infiniband/verbs.h> (Debian: libibverbs-dev)")
    if shutil.which(compiler) is None or shutil.which(objcopy) is None:
        skip_or_fail("verbs", f"needs a compiler for {architecture} (Debian: {packages})")
    rows = expected()
    assert len(rows) > 250
    source, made, data = (tmp_path / name for name in ("layout.c", "layout.o", "layout.bin"))
    source.write_text(
        "#include <stddef.h>\n#include <infiniband/verbs.h>\n"
        '__attribute__((section(".layout"), used)) const unsigned long long layout[] = {\n'
        + ",\n".join(expression for expression, _ in rows)
        + "};\n"
    )
    # Only this folder of the machine's own headers: the others belong to its architecture.
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "infiniband").symlink_to(HEADER.parent)
    subprocess.run([compiler, "-c", "-I", tmp_path / "include", "-o", made, source], check=True)
    subprocess.run([objcopy, "-O", "binary", "-j", ".layout", made, data], check=True)
    found = struct.unpack(f"<{len(rows)}Q", data.read_bytes())
    different = {name: (ours, theirs) for (name, ours), theirs in zip(rows, found, strict=True) if ours != theirs}
    assert not different, "ours, the header's"


def test_structures_of_another_size_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layouts.unfit() is None
    monkeypatch.setitem(layouts.SIZES, layouts.Completion, 44)
    assert layouts.unfit() == "Completion of 48 bytes, not 44"
