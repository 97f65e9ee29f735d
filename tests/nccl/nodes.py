"""Nodes with HCAs as snapshots: one folder serves our command and, as sysfs, the released NCCL."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.trees import V1, V2, ZERO, gid_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Slot:
    """One occupied slot. ``kind`` is the text of its type, ``None``: reading it gives EINVAL."""

    ip: str
    kind: str | None = V2

    @property
    def gid(self) -> str:
        """Return the GID as sysfs shows it."""
        return gid_text(self.ip)


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


def build_node(root: Path, ports: Sequence[NodePort], *, nccl: str) -> Path:
    """Write the snapshot of a node with ``ports`` and NCCL of version ``nccl``; return ``root``.

    Every HCA sits on a PCI bus of its own. Ports of one device share its interface.
    """
    facts: dict[str, Any] = {
        "format": 1,
        "interfaces": {
            "lo": {"up": True, "mtu": 65536, "speed_mbps": 0, "addresses": ["127.0.0.1/8"]},
        },
        "verbs": {},
        "errno": {},
        "memlock": "unlimited",
        "capabilities": ["CAP_IPC_LOCK"],
        "versions": {"sglang": None, "nccl": nccl},
        "environ": {},
    }
    numbers = {name: n for n, name in enumerate(dict.fromkeys(port.device for port in ports))}
    for port in ports:
        _write_port(root, port, numbers[port.device], facts)
    (root / "facts.json").write_text(json.dumps(facts))
    return root


def _write_port(root: Path, port: NodePort, number: int, facts: dict[str, Any]) -> None:
    bus = f"{0x10 + number:02x}"
    netdev = f"net{number}"
    function = root / f"sys/devices/pci0000:{bus}/0000:{bus}:00.0"
    hca = function / "infiniband" / port.device
    if not hca.exists():
        _write_hca(root, function, port, number, netdev)
        uverbs = f"uverbs{number}"
        facts["verbs"][uverbs] = port.verbs
        facts["interfaces"][netdev] = {
            "up": True,
            "mtu": 4200,
            "speed_mbps": 100000,
            "addresses": list(port.own),
        }
    base = hca / "ports" / str(port.number)
    for folder in ("gids", "gid_attrs/types", "gid_attrs/ndevs"):
        (base / folder).mkdir(parents=True)
    (base / "state").write_text("4: ACTIVE\n" if port.active else "1: DOWN\n")
    (base / "phys_state").write_text("5: LinkUp\n" if port.active else "3: Disabled\n")
    (base / "link_layer").write_text("Ethernet\n")
    (base / "rate").write_text("100 Gb/sec (4X EDR)\n")
    below = "/" + str(base.relative_to(root))
    for index in range(port.length):
        slot = port.table.get(index)
        (base / "gids" / str(index)).write_text((slot.gid if slot else ZERO) + "\n")
        kind = slot.kind if slot else None
        for attribute, text in (("types", kind), ("ndevs", netdev)):
            if kind is None:  # the verbs library answers EINVAL for a file that is missing there
                facts["errno"][f"{below}/gid_attrs/{attribute}/{index}"] = "EINVAL"
            else:
                (base / "gid_attrs" / attribute / str(index)).write_text(f"{text}\n")


def _write_hca(root: Path, function: Path, port: NodePort, number: int, netdev: str) -> None:
    hca = function / "infiniband" / port.device
    (hca / "ports").mkdir(parents=True)
    (hca / "node_type").write_text("1: CA\n")
    (hca / "node_guid").write_text(f"0000:0000:0000:{number + 1:04x}\n")
    # NCCL 2.20 to 2.23 fuse ports of one card by this number.
    (hca / "sys_image_guid").write_text(f"0000:0000:0000:{number + 1:04x}\n")
    (hca / "device").symlink_to("../..")
    (function / "vendor").write_text("0x15b3\n")
    (function / "device").write_text("0x1021\n")
    (function / "numa_node").write_text("-1\n")
    (function / "net" / netdev).mkdir(parents=True)
    (function / "net" / netdev / "operstate").write_text("up\n")
    verbs = root / "sys/class/infiniband_verbs" / f"uverbs{number}"
    verbs.mkdir(parents=True)
    (verbs / "ibdev").write_text(f"{port.device}\n")
    (verbs / "dev").write_text(f"231:{192 + number}\n")
    below = function.relative_to(root / "sys")
    for group, name in (("infiniband", port.device), ("net", netdev)):
        link = root / "sys/class" / group / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../{below}/{group}/{name}")
    write_verbs_node(root, f"uverbs{number}", port.verbs)


def write_verbs_node(root: Path, uverbs: str, answer: str) -> None:
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


def served_tree(archive: Path, folder: Path) -> Path:
    """Unpack a recorded node into ``folder`` so that the verbs library can serve it; return ``folder``.

    Software devices get a PCI function each: NCCL 2.20 to 2.23 crash on two devices without one.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    for path, name in facts.get("errno", {}).items():
        if name == "EINVAL":
            (folder / path.lstrip("/")).unlink(missing_ok=True)
    for hca in (folder / "sys/class/infiniband").iterdir():
        for port in (hca / "ports").iterdir():
            (port / "gid_attrs/types").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "dev" / "infiniband", ignore_errors=True)
    for uverbs, answer in facts.get("verbs", {}).items():
        write_verbs_node(folder, uverbs, answer)
    for number, hca in enumerate(sorted((folder / "sys/class/infiniband").iterdir())):
        if not (hca / "device").exists():
            function = folder / f"sys/devices/pci0000:{0x40 + number:02x}/0000:{0x40 + number:02x}:00.0"
            function.mkdir(parents=True)
            (hca.resolve() / "device").symlink_to(os.path.relpath(function, hca.resolve()))
    return folder


def environment_of(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that the plan sets, as the process after the launcher would see them."""
    variables: Mapping[str, Mapping[str, str | None]] = plan["environment"]
    return {name: entry["value"] for name, entry in variables.items() if entry["value"] is not None}
