"""Values that the pod or a file has decided, held against the hardware. They are kept all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang_roce_entry.fabric.candidates import routable
from sglang_roce_entry.fabric.constraints import Reason
from sglang_roce_entry.fabric.gids import UserScan
from sglang_roce_entry.fabric.nccl.scan import AF_INET6, FIRST_WITH_SCAN
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.fabric.nccl.settings import Given, parse_address_range, parse_c_integer
from sglang_roce_entry.fabric.rules import PortDecision, Selection
from sglang_roce_entry.host.facts import ROCE_V2, Gid, HostFacts, Interface
from sglang_roce_entry.problems import CONFIGURATION, RDMA_UNUSABLE, Problem, value_warning, warning

#: Families that NCCL knows, by these exact words; any other text means the default.
_FAMILIES = ("AF_INET", "AF_INET6")


def forced_index(
    decided: Mapping[str, Given], nccl: tuple[int, ...] | None, name: str = "NCCL_IB_GID_INDEX"
) -> int | None:
    """Return the index that NCCL makes of a decided ``name``, ``None`` if it is left free."""
    given = decided.get(name)
    if given is None:
        return None
    value = parse_c_integer(given.value, nccl)[0]
    if value is None and nccl is not None and nccl < FIRST_WITH_SCAN:
        return 0  # the default there
    return value if value is not None and value >= 0 else None


def user_scan(decided: Mapping[str, Given], nccl: tuple[int, ...] | None) -> UserScan:
    """Return what is decided of the variables that steer NCCL's scan."""
    family = decided.get("NCCL_IB_ADDR_FAMILY")
    address_range = decided.get("NCCL_IB_ADDR_RANGE")
    version = decided.get("NCCL_IB_ROCE_VERSION_NUM")
    return UserScan(
        family=(family.value if family.value in _FAMILIES else "AF_INET") if family else None,
        address_range=parse_address_range(address_range.value) if address_range else None,
        range_set=address_range is not None,
        roce_version=parse_c_integer(version.value, nccl)[0] if version else None,
        left_to_nccl="NCCL_IB_GID_INDEX" in decided and forced_index(decided, nccl) is None,
    )


def check_index(
    decided: Mapping[str, Given],
    used: Sequence[PortDecision],
    nccl: tuple[int, ...] | None,
    name: str = "NCCL_IB_GID_INDEX",
    reader: str = "NCCL",
) -> list[Problem]:
    """Return a warning for the used ports on which a GID index is wrong alike; ``reader`` reads ``name``.

    ``nccl`` is ``None`` for any other reader than NCCL.
    """
    given = decided.get(name)
    if given is None:
        return []
    index, whole = parse_c_integer(given.value, nccl)
    forced = forced_index(decided, nccl, name)
    said = []
    if not whole:
        read_as = "as if it were not set" if index is None else f"as {index}"
        said.append(
            _wrong(
                "GID_INDEX_NOT_A_NUMBER",
                f"{name}={given.value!r} ({given.where}) is no number; {reader} reads it {read_as}",
                "remove it, or write one integer",
            )
        )
    if forced is None:
        if nccl is not None and nccl < FIRST_WITH_SCAN and used:
            said.append(
                _wrong(
                    "GID_INDEX_WRONG",
                    f"NCCL_IB_GID_INDEX={given.value} ({given.where}) leaves the index to NCCL, which before 2.21 "
                    "takes it as it is and connects nowhere",
                    "remove NCCL_IB_GID_INDEX, the right index is found at every start",
                )
            )
        return said
    alike: dict[tuple[str, str], list[str]] = {}
    for port in used:
        wrong = _index_fault(port, forced)
        if wrong is not None:
            right = ", ".join(str(choice.gid.index) for choice in port.choices)
            alike.setdefault((wrong, right), []).append(port.label)
    for (wrong, right), labels in alike.items():
        said.append(
            _wrong(
                "GID_INDEX_WRONG",
                f"{name}={given.value} ({given.where}) is wrong on {', '.join(labels)}: {wrong}",
                f"remove {name}, the right index is found at every start (here: {right})",
            )
        )
    return said


def _index_fault(port: PortDecision, index: int) -> str | None:
    if any(choice.gid.index == index for choice in port.choices):
        return None
    gid = next((one for one in port.port.gids if one.index == index), None)
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


def check_without_rdma(decided: Mapping[str, Given], *, required: bool) -> list[Problem]:
    """Return warnings where RDMA is off: on what switched it off if it is ``required``, on ``NCCL_NET=IB``."""
    said = []
    disable = decided.get("NCCL_IB_DISABLE")
    if required and disable is not None:
        said.append(
            value_warning(
                "RDMA_DISABLED",
                f"NCCL_IB_DISABLE={disable.value} ({disable.where}) makes NCCL use TCP, but RDMA is required",
                "remove NCCL_IB_DISABLE, or say --rdma off",
                RDMA_UNUSABLE,
            )
        )
    net = decided.get("NCCL_NET")
    if net is None or net.value.lower() != "ib":
        return said
    return [
        *said,
        _wrong(
            "NCCL_NET_IB",
            f"NCCL_NET={net.value} ({net.where}) allows nothing but RDMA, which is off: NCCL ends with an error",
            "remove NCCL_NET, or do not switch RDMA off (--rdma off, NCCL_IB_DISABLE)",
        ),
    ]


def check_selector(
    decided: Mapping[str, Given], selection: Selection, facts: HostFacts, nccl: tuple[int, ...] | None
) -> list[Problem]:
    """Return warnings on a decided ``NCCL_IB_HCA``: names that do not exist, ports that cannot work."""
    given = decided.get("NCCL_IB_HCA")
    if given is None:
        return []
    selector = parse_selector(given.value, nccl=nccl)
    devices = [hca.name for hca in facts.hcas]
    said = []
    if not selector.exclude:
        missing = [
            entry.name
            for entry in selector.entries
            if not any(name == entry.name if selector.exact else name.startswith(entry.name) for name in devices)
        ]
        if missing:
            said.append(
                _wrong(
                    "HCA_UNKNOWN",
                    f"NCCL_IB_HCA={given.value} ({given.where}) names {', '.join(map(repr, missing))}, "
                    "which this node does not have",
                    f"devices here: {', '.join(devices) or 'none'}; remove NCCL_IB_HCA to have it found",
                )
            )
    broken = [
        port
        for port in selection.ports
        if port.reason in (Reason.NO_OWN_GID, Reason.NETDEV_DOWN, Reason.FAMILY_MISMATCH)
        and selector.matches(port.hca.name, port.port.number)
    ]
    said.extend(
        _wrong(
            "HCA_UNUSABLE",
            f"NCCL_IB_HCA={given.value} ({given.where}) also selects {port.label}, which NCCL will use "
            f"although {port.detail}",
            "remove NCCL_IB_HCA, or exclude that port",
        )
        for port in broken
    )
    if selector.dropped:
        said.append(
            warning(
                "HCA_LIST_TOO_LONG",
                f"NCCL_IB_HCA ({given.where}) has {selector.dropped} entries more than the 32 NCCL reads",
                "shorten the list, or use a prefix",
            )
        )
    return said


def check_steering(
    decided: Mapping[str, Given], scan_family: str | None, prefix: str = "NCCL_IB_", reader: str = "NCCL"
) -> list[Problem]:
    """Return warnings on decided variables of the scan (NCCL's, NVSHMEM's copy) that are read as something else.

    ``scan_family`` is the family that the scan looks for, ``None`` where it does not run.
    """
    said = []
    family = decided.get(f"{prefix}ADDR_FAMILY")
    if family is not None and family.value not in _FAMILIES:
        said.append(
            _wrong(
                "ADDR_FAMILY_UNKNOWN",
                f"{prefix}ADDR_FAMILY={family.value!r} ({family.where}) is neither AF_INET nor AF_INET6; "
                f"{reader} reads it as AF_INET",
                "write AF_INET or AF_INET6",
            )
        )
    address_range = decided.get(f"{prefix}ADDR_RANGE")
    if address_range is not None:
        value = address_range.value
        network = parse_address_range(value)
        if network is None or value.partition("/")[2] != str(network.prefixlen):
            read_as = "ignores it" if network is None else f"reads it as {network}"
            said.append(
                _wrong(
                    "ADDR_RANGE_MALFORMED",
                    f"{prefix}ADDR_RANGE={value!r} ({address_range.where}) is not one network with a "
                    f"prefix length; {reader} {read_as}, NCCL 2.21 and 2.22 crash without /",
                    "write one network like 10.0.0.0/16",
                )
            )
        elif scan_family is not None and (scan_family == AF_INET6) != (network.version == 6):
            said.append(
                _wrong(
                    "ADDR_RANGE_OTHER_FAMILY",
                    f"{prefix}ADDR_RANGE={value} ({address_range.where}) is of IPv{network.version}, but {reader} "
                    f"looks for addresses of {scan_family} and ignores it",
                    f"set {prefix}ADDR_FAMILY to the family of the range, or remove the range",
                )
            )
    return said


def check_sockets(
    decided: Mapping[str, Given], interfaces: Sequence[Interface], *, host_ip_is_set: bool = False
) -> list[Problem]:
    """Return warnings on decided socket interfaces and addresses that this pod does not have.

    ``host_ip_is_set``: this program sets SGLANG_HOST_IP, which outranks a wrong HOST_IP.
    """
    names = [interface.name for interface in interfaces]
    own = {str(address.ip) for interface in interfaces for address in interface.addresses}
    said = []
    nccl = decided.get("NCCL_SOCKET_IFNAME")
    if nccl is not None and len(nccl.value) > 1 and names:
        selector = parse_selector(nccl.value)
        if not any(selector.matches(name, -1) for name in names):
            said.append(
                _configured_wrong(
                    "SOCKET_IFNAME_MATCHES_NOTHING",
                    f"NCCL_SOCKET_IFNAME={nccl.value} ({nccl.where}) matches no interface of this pod",
                    f"remove it, or name one of: {', '.join(names)}",
                )
            )
    gloo = decided.get("GLOO_SOCKET_IFNAME")
    if gloo is not None and names:
        missing = [name for name in gloo.value.split(",") if name not in names]
        if missing:
            said.append(
                _configured_wrong(
                    "GLOO_IFNAME_UNKNOWN",
                    f"GLOO_SOCKET_IFNAME={gloo.value} ({gloo.where}): Gloo takes exact names and ends with "
                    f"an error for {', '.join(map(repr, missing))} ('=', '^' and prefixes are NCCL's)",
                    f"remove it, or name one of: {', '.join(names)}",
                )
            )
    said += _families(decided, interfaces)
    for name in ("SGLANG_HOST_IP", "HOST_IP"):
        given = decided.get(name)
        if given is None or given.value in own or not own:
            continue
        if name == "HOST_IP" and (host_ip_is_set or "SGLANG_HOST_IP" in decided):
            continue
        said.append(
            _configured_wrong(
                "HOST_IP_FOREIGN",
                f"{name}={given.value} ({given.where}) is no address of this pod, and SGLang takes it for its own",
                f"remove {name}; status.hostIP is the node's address, not the pod's",
            )
        )
    return said


def _families(decided: Mapping[str, Given], interfaces: Sequence[Interface]) -> list[Problem]:
    """Return a warning on a socket family that no interface has an address of: NCCL ends with an error."""
    ips = [address.ip for interface in interfaces for address in interface.addresses]
    here = {ip.version for ip in ips if not ip.is_loopback and not ip.is_link_local}
    said = []
    for name in ("NCCL_SOCKET_FAMILY", "NVSHMEM_BOOTSTRAP_UID_SOCK_FAMILY"):
        given = decided.get(name)
        if given is None or given.value not in _FAMILIES or not here:
            continue
        version = 6 if given.value == AF_INET6 else 4
        if version not in here:
            said.append(
                _configured_wrong(
                    "SOCKET_FAMILY",
                    f"{name}={given.value} ({given.where}), but this pod has no IPv{version} address",
                    f"remove {name}: where one is needed it is set",
                )
            )
    return said


def _wrong(code: str, message: str, hint: str) -> Problem:
    return value_warning(code, message, hint, RDMA_UNUSABLE)


def _configured_wrong(code: str, message: str, hint: str) -> Problem:
    return value_warning(code, message, hint, CONFIGURATION)
