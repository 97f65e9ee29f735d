"""Nodes with HCAs as snapshots: one folder serves our command and, as sysfs, the released NCCL."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import tarfile
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.trees import V1, V2, ZERO, FakeHca, Node, gid_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Slot:
    """One occupied slot. ``kind`` is the text of its type, ``None``: reading it gives EINVAL."""

    ip: str
    kind: str | None = V2


Table = dict[int, Slot]


@dataclass(frozen=True, slots=True)
class NodePort:
    """One port of a node; ``own`` are the addresses (with prefix length) of its interface."""

    device: str
    number: int = 1
    table: Table = field(default_factory=dict)
    length: int = 16
    own: tuple[str, ...] = ()
    active: bool = True
    verbs: str = "ok"


def classic(own: str, *, first: int = 2, link_local: str = "fe80::1") -> Table:
    """Return the table of a freshly configured port: link-local at 0 and 1, ``own`` v1 and v2."""
    plain = own.partition("/")[0]
    return {
        0: Slot(link_local, V1),
        1: Slot(link_local, V2),
        first: Slot(plain, V1),
        first + 1: Slot(plain, V2),
    }


def own(number: int) -> str:
    return f"10.0.{number}.1/24"


def rail(device: str, number: int, *, first: int = 2, **more: Any) -> NodePort:
    """Return a port with its own address, its IPv4 GIDs at ``first`` and the next."""
    table = classic(own(number), first=first)
    return NodePort(device, 1, table, 16, (own(number),), **more)


def rail6(device: str, number: int, *, first: int = 2) -> NodePort:
    """Return a port with an own IPv6 address only."""
    address = f"2001:db8:{number:x}::1/64"
    return NodePort(device, 1, classic(address, first=first), 16, (address,))


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for a few nodes, in memory where the machine has such a place: they are many small files."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="nccl-nodes-", dir=place) as folder:
        yield Path(folder)


def build_node(root: Path, ports: Sequence[NodePort], *, nccl: str) -> Path:
    """Write the snapshot of a node with ``ports`` and NCCL of version ``nccl``; return ``root``.

    Every HCA sits on a PCI bus of its own. Ports of one device share its interface.
    """
    node = Node()
    made: dict[str, FakeHca] = {}
    verbs: dict[str, str] = {}
    for port in ports:
        number = list(made).index(port.device) if port.device in made else len(made)
        netdev = f"net{number}"
        if port.device not in made:
            pci = f"0000:{0x10 + number:02x}:00.0"
            hca = node.hca(port.device, pci=pci, verbs=port.verbs, netdevs=(netdev,))
            # NCCL 2.20 to 2.23 fuse ports of one card by this number.
            node.files[f"{hca.path}/sys_image_guid"] = f"0000:0000:0000:{number + 1:04x}\n"
            node.interface(netdev, *port.own)
            made[port.device] = hca
            verbs[f"uverbs{number}"] = port.verbs
        state = "4: ACTIVE" if port.active else "1: DOWN"
        fake = made[port.device].port(port.number, state=state, slots=port.length)
        for index, slot in port.table.items():
            fake.gid(index, slot.ip, slot.kind, netdev if slot.kind else None)
    node.set(memlock="unlimited", versions={"sglang": None, "nccl": nccl}, environ={})
    node.write(root)
    # The folder of the types is there even where every one of them is unreadable.
    for types in root.glob("sys/devices/*/*/infiniband/*/ports/*"):
        (types / "gid_attrs/types").mkdir(parents=True, exist_ok=True)
    for uverbs, answer in verbs.items():
        _write_verbs_node(root, uverbs, answer)
    return root


def _write_verbs_node(root: Path, uverbs: str, answer: str) -> None:
    """Write the node that the verbs library opens: empty, or the errno it must refuse with."""
    if answer == "ENOENT":
        return
    node = root / "dev/infiniband" / uverbs
    node.parent.mkdir(parents=True, exist_ok=True)
    node.write_text("" if answer == "ok" else f"{getattr(errno, answer)}\n")


def replay_of(archive: Path, target: Path, *, nccl: str) -> Path:
    """Write the recorded node ``archive`` to ``target`` with ``nccl`` as its NCCL; return ``target``."""
    with tarfile.open(archive) as source, tarfile.open(target, "w:gz", compresslevel=1) as copy:
        for member in source:
            content = source.extractfile(member) if member.isfile() else None
            if content is not None and member.name.removeprefix("./") == "facts.json":
                facts: dict[str, Any] = json.load(content)
                facts["versions"] = {**facts.get("versions", {}), "nccl": nccl}
                raw = json.dumps(facts).encode()
                member.size = len(raw)
                copy.addfile(member, io.BytesIO(raw))
            else:
                copy.addfile(member, content)
    return target


@dataclass(frozen=True, slots=True)
class Served:
    """A recorded node for the verbs library: its devices as a tree, its GID tables as ports."""

    tree: Path
    tables: tuple[NodePort, ...]


_BELOW_A_PORT = re.compile(r"/ports/\d+/[^/]+/")
_OF_A_PORT = re.compile(r"(?:\./)?sys/devices/.+/infiniband/([^/]+)/ports/(\d+)/(gids|gid_attrs/types)/(\d+)")


def serve(archive: Path, folder: Path) -> Served:
    """Return a recorded node, unpacked into ``folder`` but for its thousands of GIDs.

    Software devices get a PCI function each: NCCL 2.20 to 2.23 crash on two devices without one.
    """
    gids: dict[tuple[str, int], dict[int, str]] = {}
    kinds: dict[tuple[str, int], dict[int, str]] = {}
    wanted = []
    with tarfile.open(archive) as tar:
        for member in tar:
            found = _OF_A_PORT.fullmatch(member.name)
            content = tar.extractfile(member) if found and member.isfile() else None
            if found is None or content is None:
                if not _BELOW_A_PORT.search(member.name):
                    wanted.append(member)
                continue
            port = (found[1], int(found[2]))
            texts = gids if found[3] == "gids" else kinds
            texts.setdefault(port, {})[int(found[4])] = content.read().decode().strip()
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python has none
        tar.extractall(folder, [one for one in wanted if "infiniband" in one.name])
        facts_file = tar.extractfile(next(one for one in wanted if one.name.removeprefix("./") == "facts.json"))
        assert facts_file is not None
        facts: dict[str, Any] = json.load(facts_file)
    for uverbs, answer in facts.get("verbs", {}).items():
        _write_verbs_node(folder, uverbs, answer)
    for number, hca in enumerate(sorted((folder / "sys/class/infiniband").iterdir())):
        if not (hca / "device").exists():
            function = folder / f"sys/devices/pci0000:{0x40 + number:02x}/0000:{0x40 + number:02x}:00.0"
            function.mkdir(parents=True)
            (hca.resolve() / "device").symlink_to(os.path.relpath(function, hca.resolve()))
    tables = []
    for (device, port_number), slots in gids.items():
        types = kinds.get((device, port_number), {})
        table = {index: Slot(gid, types.get(index)) for index, gid in slots.items() if gid != ZERO}
        tables.append(NodePort(device, port_number, table, len(slots)))
    return Served(folder, tuple(tables))


def tables_of(ports: Sequence[NodePort]) -> list[dict[str, Any]]:
    """Return the GID tables of ``ports`` as the worker reads them."""
    return [
        {
            "device": port.device,
            "port": port.number,
            "length": port.length,
            "slots": [[index, gid_text(slot.ip), slot.kind] for index, slot in port.table.items()],
        }
        for port in ports
    ]


def environment_of(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that the plan sets, as the process after the launcher would see them."""
    variables: Mapping[str, Mapping[str, str | None]] = plan["environment"]
    return {name: entry["value"] for name, entry in variables.items() if entry["value"] is not None}
