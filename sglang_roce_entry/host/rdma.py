"""HCAs, their ports and GID tables, from ``/sys/class/infiniband``.

Formats: Documentation/ABI/stable/sysfs-class-infiniband and drivers/infiniband/core/sysfs.c of the
kernel. An empty slot of ``gids/`` reads as zeros without an error, while its ``gid_attrs`` answer
EINVAL; a driver may also hide the slots of another network namespace in just that way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from sglang_roce_entry.host.facts import Gid, Hca, IpAddress, Port
from sglang_roce_entry.host.tree import ABSENT, Tree, attribute_or_none, names_or_empty
from sglang_roce_entry.natural import natural_key, whole_number

CLASS = "/sys/class/infiniband"
VERBS_CLASS = "/sys/class/infiniband_verbs"

_ZERO = b"0000:0000:0000:0000:0000:0000:0000:0000"
#: How often a slot that changes under the reader is read before it is given up.
_STABLE_TRIES = 10
_LID = re.compile(r"0x[0-9a-f]{1,4}")
_PCI_ADDRESS = re.compile(r"[0-9a-fA-F]{4,}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]")


def read_hcas(tree: Tree, open_verbs: Callable[[str, str | None], str]) -> tuple[Hca, ...]:
    """Return every RDMA device in natural order.

    ``open_verbs(uverbs, "major:minor")`` answers ``ok`` or an errno name.
    """
    verbs_of = _verbs_devices(tree)
    hcas = []
    names = sorted(names_or_empty(tree, CLASS), key=natural_key)
    for name in names:
        base = f"{CLASS}/{name}"
        ports = _read_ports(tree, base, name)
        if ports is None:
            continue  # a stray file, or a device that went away while it was read
        verbs = verbs_of.get(name)
        answer = open_verbs(verbs[0], verbs[1]) if verbs else "ENOENT"
        hca = _read_hca(tree, base, name, ports, verbs[0] if verbs else None, answer)
        hcas.append(replace(hca, board=_board(tree, base, hca.path)) if len(names) > 1 else hca)
    return tuple(hcas)


def _verbs_devices(tree: Tree) -> dict[str, tuple[str, str | None]]:
    # The class is not namespaced: it lists every verbs device of the node, and also a plain
    # file abi_version. Their numbers do not follow the names of the HCAs.
    found: dict[str, tuple[str, str | None]] = {}
    for uverbs in names_or_empty(tree, VERBS_CLASS):
        device = attribute_or_none(tree, f"{VERBS_CLASS}/{uverbs}/ibdev")
        if device:
            found[device] = (uverbs, attribute_or_none(tree, f"{VERBS_CLASS}/{uverbs}/dev"))
    return found


def _read_hca(tree: Tree, base: str, name: str, ports: tuple[Port, ...], verbs: str | None, answer: str) -> Hca:
    path = tree.real(f"{base}/device")
    pci_path = pci_function_path(path) if path else None
    pci_address = pci_path.rpartition("/")[2] if pci_path else None
    physical = tree.real(f"{pci_path}/physfn") if pci_path else None
    # A software device (rxe) has no parent function, but names its netdev in "parent".
    parent = attribute_or_none(tree, f"{base}/parent") if path is None else None
    netdevs = names_or_empty(tree, f"{path}/net") if path else [parent] if parent else []
    return Hca(
        name=name,
        node_type=leading_number(attribute_or_none(tree, f"{base}/node_type")),
        ports=ports,
        verbs=verbs,
        verbs_answer=answer,
        path=path,
        pci_address=pci_address,
        physical_function=physical.rpartition("/")[2] if physical else None,
        numa_node=numa_node(tree, pci_path or path),
        model=_model(tree, base, pci_path),
        netdevs=tuple(sorted(netdevs, key=natural_key)),
    )


def numa_node(tree: Tree, path: str | None) -> int | None:
    """Return the NUMA node of a device, ``None`` where the kernel does not know it (-1, NUMA_NO_NODE)."""
    return whole_number(attribute_or_none(tree, f"{path}/numa_node")) if path else None


def _model(tree: Tree, base: str, pci_path: str | None) -> str | None:
    if pci_path:
        vendor = attribute_or_none(tree, f"{pci_path}/vendor")
        device = attribute_or_none(tree, f"{pci_path}/device")
        if vendor and device:
            return f"{vendor}:{device}"
    return attribute_or_none(tree, f"{base}/hca_type")


def _board(tree: Tree, base: str, path: str | None) -> str | None:
    """Return the PSID that mlx5 and mlx4 print in ``board_id``, else the PCI subsystem's numbers."""
    board = attribute_or_none(tree, f"{base}/board_id")
    pci_path = pci_function_path(path) if path and not board else None
    if board or pci_path is None:
        return board or None
    ids = [attribute_or_none(tree, f"{pci_path}/subsystem_{one}") for one in ("vendor", "device")]
    return ":".join(filter(None, ids)) or None


def _read_ports(tree: Tree, base: str, device: str) -> tuple[Port, ...] | None:
    try:
        found = map(whole_number, tree.names(f"{base}/ports"))
        numbers = sorted(number for number in found if number is not None)
    except OSError as error:
        return None if error.errno in ABSENT else ()
    return tuple(_read_port(tree, base, device, number) for number in numbers)


def _read_port(tree: Tree, base: str, device: str, number: int) -> Port:
    port = f"{base}/ports/{number}"
    state = attribute_or_none(tree, f"{port}/state")
    length, gids = _read_gids(tree, port)
    link_layer = attribute_or_none(tree, f"{port}/link_layer")
    return Port(
        device=device,
        number=number,
        state=leading_number(state),
        state_name=state.partition(":")[2].strip() if state else "unknown",
        link_layer=link_layer,
        rate_gbps=parse_rate_gbps(attribute_or_none(tree, f"{port}/rate")),
        table_length=length,
        gids=gids,
        lid=_lid(attribute_or_none(tree, f"{port}/lid")) if link_layer == "InfiniBand" else None,
    )


def _lid(text: str | None) -> int | None:
    """Return the number of ``0x21`` (``lid_show`` of drivers/infiniband/core/sysfs.c)."""
    return int(text, 16) if text is not None and _LID.fullmatch(text) else None


def _read_gids(tree: Tree, port: str) -> tuple[int, tuple[Gid, ...]]:
    try:
        slots = {
            index: content
            for name, content in tree.slots(f"{port}/gids")
            if (index := whole_number(name)) is not None
        }
    except OSError:
        return 0, ()
    occupied = [
        index
        for index, content in sorted(slots.items())
        if not isinstance(content, OSError) and not content.startswith(_ZERO)
    ]
    gids = [_read_slot(tree, port, index) for index in occupied]
    return len(slots), tuple(gid for gid in gids if gid is not None)


def _read_slot(tree: Tree, port: str, index: int) -> Gid | None:
    # The table changes while it is read: a GID of one address with the type or the netdev of the
    # next was seen in one read of six under load. Only two equal readings in a row count.
    previous: tuple[str, str | None, str | None] | None = None
    for _ in range(_STABLE_TRIES):
        try:
            text = tree.attribute(f"{port}/gids/{index}")
        except OSError:
            return None
        current = (
            text,
            attribute_or_none(tree, f"{port}/gid_attrs/types/{index}") or None,
            attribute_or_none(tree, f"{port}/gid_attrs/ndevs/{index}") or None,
        )
        if current == previous:
            try:
                ip = parse_gid(text)
            except ValueError:
                return None
            return Gid(index, ip, current[1], current[2]) if ip is not None else None
        previous = current
    return None


def parse_gid(text: str) -> IpAddress | None:
    """Return a GID of eight groups as an address, IPv4-mapped ones as IPv4; ``None`` for a zero GID.

    Raises ``ValueError`` on any other text.
    """
    groups = text.split(":")
    if len(groups) != 8 or not all(len(group) == 4 for group in groups):
        raise ValueError(f"{text!r} is not a GID of eight groups")
    value = int("".join(groups), 16)
    if value == 0:
        return None
    return IPv4Address(value & 0xFFFFFFFF) if value >> 32 == 0xFFFF else IPv6Address(value)


def parse_rate_gbps(text: str | None) -> float | None:
    """Return the rate of ``100 Gb/sec (4X EDR)`` in Gb/s, ``None`` if there is none."""
    if not text:
        return None
    try:
        rate = float(text.split()[0])
    except (ValueError, IndexError):
        return None
    return rate if 0 <= rate < 1e6 else None  # float() reads "nan" and "inf" as well


def leading_number(text: str | None) -> int | None:
    """Return the number of ``4: ACTIVE`` or ``1: CA``, ``None`` if there is none."""
    return whole_number(text.partition(":")[0].strip()) if text else None


def pci_function_path(real_path: str) -> str | None:
    """Return the part of a real sysfs path up to its last PCI function, ``None`` without one.

    A sub-function (``.../0000:08:00.0/mlx5_core.sf.4``) belongs to the function above it.
    """
    parts = real_path.split("/")
    for end in range(len(parts), 0, -1):
        if is_pci_address(parts[end - 1]):
            return "/".join(parts[:end])
    return None


def is_pci_address(text: str) -> bool:
    """Return whether ``text`` looks like ``0000:08:00.0`` (domains of more than four digits exist)."""
    return _PCI_ADDRESS.fullmatch(text) is not None
