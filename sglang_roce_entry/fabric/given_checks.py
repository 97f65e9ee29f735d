"""Checks a GID index, family, range or device list that was set against the ports. All values are kept.

Several libraries read these in one grammar: NCCL, its copy in NVSHMEM, Mooncake and UCX.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sglang_roce_entry.fabric.candidates import PortDecision, routable
from sglang_roce_entry.fabric.gids import forced_index
from sglang_roce_entry.fabric.nccl.numbers import parse_address_range, parse_c_integer
from sglang_roce_entry.fabric.nccl.scan import AF_INET6, FAMILIES, FIRST_WITH_SCAN
from sglang_roce_entry.fabric.wishes import Given
from sglang_roce_entry.host.facts import ROCE_V2, Gid
from sglang_roce_entry.problems import Problem, rdma_value


def check_device_names(
    given: Given, entries: Iterable[str], known: Sequence[str], reader: str
) -> Iterator[Problem]:
    """Return a warning on ``entries`` of a given list that are not devices of this node."""
    missing = [entry for entry in dict.fromkeys(entries) if entry not in known]
    if not missing:
        return
    yield rdma_value(
        "DEVICE_UNKNOWN",
        f"{given}: {reader} takes exact names, and this node has no {', '.join(map(repr, missing))}",
        f"remove {given.name}, or choose from: {', '.join(known) or 'none'}",
    )


def check_index(
    values: Mapping[str, Given],
    used: Sequence[PortDecision],
    nccl: tuple[int, ...] | None,
    name: str = "NCCL_IB_GID_INDEX",
    reader: str = "NCCL",
) -> Iterator[Problem]:
    """Return warnings on a GID index, one for all used ports on which it is wrong in the same way.

    ``reader`` reads ``name``. ``nccl`` is ``None`` for any other reader than NCCL.
    """
    given = values.get(name)
    if given is None:
        return
    index, whole = parse_c_integer(given.value, nccl)
    forced = forced_index(values, nccl, name)
    if not whole:
        read_as = "as if it were not set" if index is None else f"as {index}"
        yield rdma_value(
            "GID_INDEX_NOT_A_NUMBER",
            f"{name}={given.value!r} ({given.where}) is not a number; {reader} reads it {read_as}",
            "remove it, or write one integer",
        )
    if forced is None:
        if nccl is not None and nccl < FIRST_WITH_SCAN and used:
            yield rdma_value(
                "GID_INDEX_WRONG",
                f"NCCL_IB_GID_INDEX={given.value} ({given.where}) leaves the index to NCCL, which before 2.21 "
                "uses the value as it is and cannot connect",
                "remove NCCL_IB_GID_INDEX: the right index is found at every start",
            )
        return
    alike: dict[tuple[str, str], list[str]] = {}
    for port in used:
        wrong = _index_fault(port, forced)
        if wrong is not None:
            right = ", ".join(str(choice.gid.index) for choice in port.choices)
            alike.setdefault((wrong, right), []).append(port.label)
    for (wrong, right), labels in alike.items():
        yield rdma_value(
            "GID_INDEX_WRONG",
            f"{name}={given.value} ({given.where}) is wrong on {', '.join(labels)}: {wrong}",
            f"remove {name}: the right index is found at every start (here: {right})",
        )


def _index_fault(port: PortDecision, index: int) -> str | None:
    if index in port.own_indices:
        return None
    gid = port.port.gid_at(index)
    if gid is None:
        if index >= port.port.table_length:
            return f"its table ends at index {port.port.table_length - 1}"
        return f"index {index} is empty"
    if gid.type is None:
        return f"index {index} is hidden from this pod"
    # Without the address, which is another one on each port: one sentence for all rails.
    if gid.type != ROCE_V2:
        return f"index {index} is {gid.type.removeprefix('IB/')}"
    if not routable(gid.ip):
        return f"index {index} is a link-local address"
    return f"index {index} is {gid.ip}, {_whose(port, gid)}"


def _whose(port: PortDecision, gid: Gid) -> str:
    chosen = port.gid
    if chosen is not None and gid.ip.version != chosen.ip.version:
        return f"IPv{gid.ip.version} where the group uses IPv{chosen.ip.version}"
    if chosen is not None and gid.netdev == chosen.netdev:
        return f"another address on {gid.netdev}, not this pod's or not in the chosen network"
    return f"an address of {gid.netdev or 'another namespace'}, not of the chosen network"


def check_steering(
    values: Mapping[str, Given], scan_family: str | None, prefix: str = "NCCL_IB_", reader: str = "NCCL"
) -> Iterator[Problem]:
    """Return warnings on given variables of the scan (NCCL's, NVSHMEM's copy) that are read as something else.

    ``scan_family`` is the family that the scan looks for, ``None`` where it does not run.
    """
    family = values.get(f"{prefix}ADDR_FAMILY")
    if family is not None and family.value not in FAMILIES:
        yield rdma_value(
            "ADDR_FAMILY_UNKNOWN",
            f"{prefix}ADDR_FAMILY={family.value!r} ({family.where}) is neither AF_INET nor AF_INET6; "
            f"{reader} reads it as AF_INET",
            "write AF_INET or AF_INET6",
        )
    address_range = values.get(f"{prefix}ADDR_RANGE")
    if address_range is not None:
        value = address_range.value
        network = parse_address_range(value)
        if network is None or value.partition("/")[2] != str(network.prefixlen):
            read_as = "ignores it" if network is None else f"reads it as {network}"
            yield rdma_value(
                "ADDR_RANGE_MALFORMED",
                f"{prefix}ADDR_RANGE={value!r} ({address_range.where}) is not one network with a "
                f"prefix length; {reader} {read_as}, NCCL 2.21 and 2.22 crash without /",
                "write one network like 10.0.0.0/16",
            )
        elif scan_family is not None and (scan_family == AF_INET6) != (network.version == 6):
            yield rdma_value(
                "ADDR_RANGE_OTHER_FAMILY",
                f"{prefix}ADDR_RANGE={value} ({address_range.where}) is an IPv{network.version} range, but "
                f"{reader} looks for {scan_family} addresses and ignores it",
                f"set {prefix}ADDR_FAMILY to the family of the range, or remove the range",
            )
