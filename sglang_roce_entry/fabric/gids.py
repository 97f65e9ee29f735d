"""Which network, family and GID index: one index for all ports, or none and NCCL's own choice for each.

``NCCL_IB_GID_INDEX`` is one integer for every HCA of a process (NVIDIA/nccl#890). Where the right
indices differ it must not be set; the model of its scan predicts whether NCCL then chooses right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from sglang_roce_entry.fabric.candidates import Candidate, OwnGid, PortDecision, Rejection
from sglang_roce_entry.fabric.constraints import Constraints, IpNetwork, Reason
from sglang_roce_entry.fabric.nccl.numbers import parse_address_range, parse_c_integer
from sglang_roce_entry.fabric.nccl.scan import (
    AF_INET,
    AF_INET6,
    FAMILIES,
    FIRST_WITH_SCAN,
    FIRST_WITHOUT_EINVAL_ABORT,
    ScanSettings,
    predict_gid_index,
)
from sglang_roce_entry.fabric.wishes import Given
from sglang_roce_entry.host.facts import ROCE_V2, Port
from sglang_roce_entry.problems import Problem, rdma_value


def one_family(
    candidates: Sequence[Candidate], constraints: Constraints
) -> tuple[int | None, list[Candidate], dict[str, Rejection]]:
    """Return the IP version for all ports, the ports that have it, and why the others are left out, by label."""
    if not candidates:
        return None, [], {}
    if constraints.family != "auto":
        family = 4 if constraints.family == "ipv4" else 6
    else:
        # IPv6 where IPv4 would drop more than it keeps: rails with IPv6 only beside a management card with IPv4.
        # A node with both on each rail that lost one IPv4 address must not move to another family than its peers.
        dropped = sum(_weight(one) for one in candidates if not one.of_family(4))
        kept_by_ipv4 = sum(_weight(one) for one in candidates if one.of_family(4))
        family = 6 if dropped > kept_by_ipv4 else 4
    why = Rejection(Reason.FAMILY_MISMATCH, f"it has no IPv{family} address, and the group uses IPv{family}")
    kept = [one for one in candidates if one.of_family(family)]
    return family, kept, {one.label: why for one in candidates if not one.of_family(family)}


def _weight(candidate: Candidate) -> float:
    return candidate.port.rate_gbps or 1.0


def choose_gid(
    candidate: Candidate, family: int | None, constraints: Constraints
) -> tuple[PortDecision, list[Problem]]:
    """Return the port with its GIDs of the chosen network, lowest index first, and what is ambiguous."""
    own = candidate.of_family(family or 4)
    said: list[Problem] = []
    chosen = _by_configured_subnet(own, constraints)
    if not chosen:
        # An address on the port's own interface comes before one on a VLAN above it.
        own_netdevs = _own_netdevs(candidate)
        own = tuple(one for one in own if one.gid.netdev in own_netdevs) or own
        networks = sorted({_network_of(one) for one in own}, key=_network_key)
        # The lowest network, never the first slot: the order of slots depends on the past and changes
        # with every restart of a driver.
        chosen = [one for one in own if _network_of(one) == networks[0]]
        if len(networks) > 1:
            listed = ", ".join(str(network) for network in networks)
            said.append(
                rdma_value(
                    "AMBIGUOUS_SUBNET",
                    f"{candidate.hca.name} port {candidate.port.number} has addresses in several "
                    f"networks ({listed}); {networks[0]} is used",
                    "name the fabric's network: --subnets or SGLANG_ROCE_SUBNETS",
                )
            )
    chosen.sort(key=lambda one: one.gid.index)
    gid = chosen[0].gid
    foreign = " (foreign, allowed by foreign-gids)" if chosen[0].network is None else ""
    detail = f"RoCE v2 GID {gid.ip} on {gid.netdev} at index {gid.index}{foreign}"
    return PortDecision(candidate.hca, candidate.port, None, detail, tuple(chosen)), said


def _own_netdevs(candidate: Candidate) -> set[str | None]:
    """Return the interfaces that the port itself has.

    The kernel makes the first GIDs of a table for it, or for the bond that it is in, of its MAC address
    (``roce_gid_mgmt.c``, ``ib_cache_gid_set_default_gid``).
    """
    first = next(iter(candidate.port.gids), None)
    default = {first.netdev} if first is not None and first.ip.is_link_local and first.ip.version == 6 else set()
    return {*candidate.hca.netdevs, *default}


def _by_configured_subnet(own: tuple[OwnGid, ...], constraints: Constraints) -> list[OwnGid]:
    found = ([one for one in own if one.gid.ip in subnet] for subnet in constraints.subnets)
    return next(filter(None, found), [])


def _network_of(own: OwnGid) -> IpNetwork:
    # The network of a foreign GID cannot be seen from here: its address stands in for it.
    return own.network or ip_network(own.gid.ip)


def _network_key(network: IpNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


@dataclass(frozen=True, slots=True)
class UserScan:
    """What the pod itself has set of the variables that steer the scan; ``None`` where it has not.

    ``left_to_nccl``: it has set the index to a value that lets NCCL choose, such as -1.
    """

    family: str | None = None
    address_range: IpNetwork | None = None
    range_set: bool = False
    roce_version: int | None = None
    left_to_nccl: bool = False

    def settings(self) -> ScanSettings:
        """Return what NCCL makes of these values."""
        version = 2 if self.roce_version is None else self.roce_version
        return ScanSettings(self.family or AF_INET, self.address_range, version)


def forced_index(
    given_values: Mapping[str, Given], nccl: tuple[int, ...] | None, name: str = "NCCL_IB_GID_INDEX"
) -> int | None:
    """Return the index that NCCL makes of a given ``name``, ``None`` if it is left free."""
    given = given_values.get(name)
    if given is None:
        return None
    value = parse_c_integer(given.value, nccl)[0]
    if value is None and nccl is not None and nccl < FIRST_WITH_SCAN:
        return 0  # the default there
    return value if value is not None and value >= 0 else None


def user_scan(given_values: Mapping[str, Given], nccl: tuple[int, ...] | None) -> UserScan:
    """Return what is given of the variables that steer NCCL's scan."""
    family = given_values.get("NCCL_IB_ADDR_FAMILY")
    address_range = given_values.get("NCCL_IB_ADDR_RANGE")
    version = given_values.get("NCCL_IB_ROCE_VERSION_NUM")
    return UserScan(
        family=(family.value if family.value in FAMILIES else "AF_INET") if family else None,
        address_range=parse_address_range(address_range.value) if address_range else None,
        range_set=address_range is not None,
        roce_version=parse_c_integer(version.value, nccl)[0] if version else None,
        left_to_nccl="NCCL_IB_GID_INDEX" in given_values and forced_index(given_values, nccl) is None,
    )


@dataclass(frozen=True, slots=True)
class IndexChoice:
    """The decision on the index.

    ``index`` is set on every port, or ``None``: withheld, with ``reason``; then ``indices`` holds what
    NCCL will take per port label, and ``family`` and ``address_range`` what must be set for that.
    ``dropped`` are ports that no variables can make right.
    """

    index: int | None
    reason: str
    indices: Mapping[str, int]
    dropped: tuple[PortDecision, ...] = ()
    family: str | None = None
    address_range: IpNetwork | None = None
    problems: tuple[Problem, ...] = ()
    scan: ScanSettings | None = None  # under which NCCL takes these, the pod's own values in it


def decide_index(
    ports: Sequence[PortDecision],
    nccl: tuple[int, ...] | None,
    user: UserScan,
    beside: Sequence[Port] = (),
) -> IndexChoice:
    """Return the index for ``ports``; ``nccl`` is the oldest NCCL that may run here, ``None`` if unknown.

    An unknown version counts as one that cannot choose. ``beside`` are further ports that the pod's own selector
    gives to NCCL: an index that is empty there would break what NCCL alone does.
    """
    lowest = {port.label: port.choices[0].gid.index for port in ports}
    if not ports:
        return IndexChoice(None, "no HCA port is used", {})
    scans = nccl is not None and nccl >= FIRST_WITH_SCAN
    index = next(iter(lowest.values()))
    spoilt = [port.label for port in beside if (gid := port.gid_at(index)) is None or gid.type != ROCE_V2]
    agree = len(set(lowest.values())) == 1
    if agree and not (scans and (user.left_to_nccl or spoilt)):
        subject = "every port has its" if len(ports) > 1 else "the port has its"
        return IndexChoice(index, f"{subject} own RoCE v2 GID at index {index}", lowest)
    if nccl is not None and scans:
        for settings in _steerings(ports, user):
            predicted = _predict_all(ports, nccl, settings)
            if predicted is not None:
                why = (
                    "the pod leaves it to NCCL, which chooses these by itself: " + _listed(predicted)
                    if user.left_to_nccl
                    else f"index {index} is no RoCE v2 GID on {', '.join(spoilt)}, which the pod's selector also "
                    f"selects; NCCL chooses these by itself: {_listed(predicted)}"
                    if agree
                    else "the ports need different indices (" + _listed(predicted) + "), "
                    "which one variable cannot hold; NCCL chooses these by itself"
                )
                return IndexChoice(
                    None,
                    why,
                    predicted,
                    family=settings.family if settings.family != (user.family or AF_INET) else None,
                    address_range=None if user.range_set else settings.address_range,
                    scan=settings,
                )
        if user.left_to_nccl:
            return _right_by_itself(ports, nccl, user.settings())
    return _largest_agreement(ports, nccl, lowest)


def _right_by_itself(ports: Sequence[PortDecision], nccl: tuple[int, ...], settings: ScanSettings) -> IndexChoice:
    """Keep the ports on which NCCL's own choice is right: the pod has left the index to it."""
    alone = {port.label: _predict_all([port], nccl, settings) for port in ports}
    kept = {label: index for one in alone.values() if one is not None for label, index in one.items()}
    dropped = _without(ports, kept, _why_not_left_to_nccl(nccl))
    problem = rdma_value(
        "INDEX_MISMATCH",
        "the pod's NCCL_IB_GID_INDEX leaves the index to NCCL, which would choose the wrong one on "
        + ", ".join(port.label for port in dropped),
        "remove NCCL_IB_GID_INDEX: the right one is found at every start",
    )
    reason = "the pod leaves it to NCCL, which chooses the right one on " + (_listed(kept) or "no port")
    return IndexChoice(None, reason, kept, dropped, problems=(problem,))


def _steerings(ports: Sequence[PortDecision], user: UserScan) -> Iterator[ScanSettings]:
    """Yield settings of the scan to try, the least intrusive first; the pod's own values stay."""
    base = user.settings()
    families = [base.family] if user.family else [AF_INET, AF_INET6]
    ranges: list[IpNetwork | None] = [base.address_range]
    if not user.range_set:
        covering = covering_network(ports)
        if covering is not None:
            ranges.append(covering)
    for address_range in ranges:
        for family in families:
            yield ScanSettings(family, address_range, base.roce_version)


def covering_network(ports: Sequence[PortDecision]) -> IpNetwork | None:
    """Return the smallest network with every chosen address: it shuts out most foreign ones."""
    addresses = [port.choices[0].gid.ip for port in ports]
    if len({address.version for address in addresses}) != 1:
        return None
    differing = 0
    for address in addresses:
        differing |= int(address) ^ int(addresses[0])
    length = addresses[0].max_prefixlen - differing.bit_length()
    return ip_network((addresses[0], length), strict=False) if length else None


def _predict_all(
    ports: Sequence[PortDecision], nccl: tuple[int, ...], settings: ScanSettings
) -> dict[str, int] | None:
    """Return NCCL's choice per port, ``None`` if one of them is not in that port's chosen network."""
    predicted = {}
    for port in ports:
        outcome = predict_gid_index(port.port.gids, port.port.table_length, nccl=nccl, settings=settings)
        if outcome.index is None or outcome.index not in port.own_indices:
            return None
        predicted[port.label] = outcome.index
    return predicted


def _largest_agreement(
    ports: Sequence[PortDecision], nccl: tuple[int, ...] | None, lowest: Mapping[str, int]
) -> IndexChoice:
    votes = Counter(index for port in ports for index in port.own_indices)
    index = min(votes, key=lambda candidate: (-votes[candidate], candidate))
    kept = [port for port in ports if index in port.own_indices]
    labels = {port.label for port in kept}
    if len(kept) == len(ports):
        return IndexChoice(index, f"every port has an own GID at index {index}", dict.fromkeys(labels, index))
    why = _why_not_left_to_nccl(nccl)
    dropped = _without(ports, labels, f"the others' at {index}; {why}")
    chooses = nccl is not None and nccl >= FIRST_WITHOUT_EINVAL_ABORT
    newer = (
        "" if chooses else f"use an image with NCCL {'.'.join(map(str, FIRST_WITHOUT_EINVAL_ABORT))} or later, or "
    )
    problem = rdma_value(
        "INDEX_MISMATCH",
        f"the ports need different GID indices ({_listed(lowest)}), which one variable cannot hold; "
        + ", ".join(port.label for port in dropped)
        + f" {'is' if len(dropped) == 1 else 'are'} left out",
        f"{why}: {newer}reload the driver on the node, so that all ports build their GID tables in the same order",
    )
    reason = f"index {index} is right on {', '.join(sorted(labels))}"
    return IndexChoice(index, reason, dict.fromkeys(labels, index), dropped, problems=(problem,))


def _without(ports: Sequence[PortDecision], kept: Collection[str], why: str) -> tuple[PortDecision, ...]:
    """Return the ports that are not among the ``kept`` labels, rejected."""
    return tuple(
        port.rejected(Reason.INDEX_MISMATCH, f"its own GID is at index {port.choices[0].gid.index}, {why}")
        for port in ports
        if port.label not in kept
    )


def _why_not_left_to_nccl(nccl: tuple[int, ...] | None) -> str:
    if nccl is None:
        return "NCCL's version is not known, so the choice cannot be left to it"
    version = ".".join(str(part) for part in nccl)
    if nccl < FIRST_WITH_SCAN:
        return f"NCCL {version} cannot choose an index per port"
    return f"NCCL {version} would choose the wrong index on one of them"


def _listed(indices: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {index}" for label, index in indices.items())
