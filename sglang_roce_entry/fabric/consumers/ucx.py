"""UCX, which NIXL transfers with: its variables, and a model of the GID index it takes by itself.

Source of the rules: openucx/ucx ``uct_ib_device_select_gid`` (``src/uct/ib/base/ib_device.c``): scans
of the table by kind, RoCE v2 before v1 and IPv4 before IPv6 before link-local, the lowest index of
the first pass that finds one; index 0 if none does. ``UCX_IB_ROCE_SUBNETS`` limits the candidates and
is rejected together with ``UCX_IB_GID_INDEX``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address

from sglang_roce_entry.fabric.candidates import PortDecision
from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.constraints import IpNetwork
from sglang_roce_entry.fabric.gids import covering_network
from sglang_roce_entry.fabric.given_checks import check_index
from sglang_roce_entry.fabric.use import NIXL, Use
from sglang_roce_entry.fabric.wishes import Given, Wish, found, shown, traffic, unset
from sglang_roce_entry.host.facts import ROCE_V2, Gid
from sglang_roce_entry.problems import Problem, config_error, rdma_value, warning

_INDEX, _SUBNETS, _DEVICES = "UCX_IB_GID_INDEX", "UCX_IB_ROCE_SUBNETS", "UCX_NET_DEVICES"
_TRAFFIC = ("UCX_IB_TRAFFIC_CLASS", "UCX_IB_SL")
_REACHABILITY = "UCX_IB_ROCE_REACHABILITY_MODE"
_PENSANDO = "0x1dd8:"
#: A network of at most so many addresses (/30, /126) holds no second node.
_OF_ONE_LINK = 4

READS = (_INDEX, _SUBNETS, _DEVICES, _REACHABILITY, *_TRAFFIC)


def wishes(choice: Choice, use: Use) -> Sequence[Wish]:
    """Return what is set for UCX."""
    index = choice.index_wish(_INDEX)
    if not choice.used:
        return (index,)
    if index.value is not None and _SUBNETS in choice.constraints.given:
        index = unset(_INDEX, "UCX rejects it together with UCX_IB_ROCE_SUBNETS")
    return (index, *_subnets(choice), _devices(choice, use), *traffic(_TRAFFIC, used=use.nixl))


def _subnets(choice: Choice) -> Sequence[Wish]:
    if _is_told(choice):
        return (shown(_SUBNETS),)
    subnet = None if right_by_itself(choice.used) else steering_subnet(choice.used)
    if subnet is None:
        return ()
    return (found(_SUBNETS, str(subnet), "makes UCX's own choice right on every port"),)


def _is_told(choice: Choice) -> bool:
    given = choice.constraints.given
    return choice.index.index is not None or _INDEX in given or _SUBNETS in given


def _devices(choice: Choice, use: Use) -> Wish:
    if use.kv_backend != NIXL:
        return shown(_DEVICES)
    if use.nixl_reads_option:
        return unset(_DEVICES, "it would make SGLang ignore --disaggregation-ib-device")
    # The list governs TCP as well, which NIXL needs to reach itself: without an interface every agent fails.
    interface = _tcp_interface(choice)
    return found(
        _DEVICES,
        ",".join([*(port.label for port in choice.used), interface]),
        f"the used ports, and {interface} for UCX's own TCP",
    )


def _tcp_interface(choice: Choice) -> str:
    return choice.control.interface or next(iter(choice.facts.default_route_interfaces), "lo")


def check(given: Mapping[str, Given], choice: Choice, use: Use) -> Sequence[Problem]:
    """Return what is wrong with given values of UCX's, and with its own choice."""
    if not choice.used:
        return ()
    return (
        *_check_provider(choice, use),
        *_check_own_choice(choice, use),
        *_check_index(given, choice.used),
        *_check_devices(given.get(_DEVICES), choice, use),
        *(_check_routes(choice) if use.nixl and _REACHABILITY not in given else ()),
    )


def _check_provider(choice: Choice, use: Use) -> Iterator[Problem]:
    """Return an error on HCAs without the shared receive queues that UCX needs (sgl-project/sglang#30099)."""
    pensando = [port.label for port in choice.used if (port.hca.model or "").startswith(_PENSANDO)]
    if use.nixl and pensando:
        yield config_error(
            "UCX_IONIC",
            f"NIXL transfers by UCX, which cannot use {', '.join(pensando)}: ionic has no shared receive queues "
            "(max_srq is 0)",
            "use --disaggregation-transfer-backend mooncake or mori",
        )


def _check_own_choice(choice: Choice, use: Use) -> Iterator[Problem]:
    if (
        _is_told(choice)
        or not use.nixl
        or right_by_itself(choice.used)
        or steering_subnet(choice.used) is not None
    ):
        return
    wrong = [port.label for port in choice.used if not right_by_itself((port,))]
    yield rdma_value(
        "UCX_GID",
        f"UCX would take a wrong GID on {', '.join(wrong)}: no index fits all ports, and no subnet "
        "separates the own GIDs from the others",
        "reload the driver on the node, so that all ports build their GID tables in the same order, or "
        "use Mooncake",
    )


def _check_index(given: Mapping[str, Given], used: Sequence[PortDecision]) -> Sequence[Problem]:
    index = given.get(_INDEX)
    if index is None or index.value == "auto":
        return ()
    problems = [*check_index(given, used, None, _INDEX, "UCX")]
    if _SUBNETS in given:
        message = f"{index} is set together with {_SUBNETS}, which UCX rejects"
        problems.append(rdma_value("UCX_GID_CONFLICT", message, "remove one of them"))
    return problems


def _check_devices(given: Given | None, choice: Choice, use: Use) -> Iterator[Problem]:
    if given is None or given.value == "all":
        return
    hcas = choice.facts.hcas
    rdma = {hca.name for hca in hcas} | {port.label for hca in hcas for port in hca.ports}
    sockets = {interface.name for interface in choice.facts.interfaces}
    entries = [part.strip() for part in given.value.removeprefix("^").split(",")]
    plain = [entry for entry in entries if "[" not in entry and "*" not in entry]  # ranges and globs are UCX's own
    missing = [entry for entry in plain if entry not in rdma | sockets]
    if missing:
        yield rdma_value(
            "UCX_NET_DEVICES_UNKNOWN",
            f"{given}: UCX takes exact names with ports; this pod has no {', '.join(map(repr, missing))}",
            f"remove it, or choose from: {', '.join(sorted(rdma | sockets))}",
        )
    if use.nixl and not given.value.startswith("^") and plain == entries and not sockets & set(entries):
        yield rdma_value(
            "UCX_WITHOUT_TCP",
            f"{given} has no network interface in it, so UCX has no TCP, which NIXL needs to reach itself",
            f"add {_tcp_interface(choice)}, or remove UCX_NET_DEVICES",
        )
    if use.kv_backend == NIXL and use.nixl_reads_option:
        message = f"{given} makes SGLang ignore --disaggregation-ib-device"
        yield rdma_value("UCX_SILENCES_MAP", message, "remove UCX_NET_DEVICES")


def _check_routes(choice: Choice) -> Iterator[Problem]:
    """Return a warning if no route leads out of a used port's own link by its interface.

    UCX then finds no peer on that rail and moves the KV cache over TCP (openucx/ucx#10996, #10841).
    """
    networks = {
        port.gid.netdev: port.choices[0].network
        for port in choice.used
        if port.gid is not None and port.gid.netdev not in choice.facts.routed_interfaces
    }
    small = {name: net for name, net in networks.items() if net is not None and net.num_addresses <= _OF_ONE_LINK}
    ends = [f"{name} ({net})" for name, net in small.items()]
    if ends:
        yield warning(
            "UCX_NO_ROUTE",
            "UCX uses a rail only for peers that the kernel routes by its interface, and no route of the main "
            f"table leads beyond the link of {', '.join(ends)}",
            f"add a route to the other nodes by each of them (ip route add ... dev {next(iter(small))}), or "
            f"set {_REACHABILITY}=all; no fault if policy routing has it (ip rule)",
        )


def predict_index(gids: Sequence[Gid], subnets: Iterable[IpNetwork] = ()) -> int:
    """Return the index that UCX takes on a RoCE port when none is set.

    ``gids`` are the occupied slots as sysfs shows them: a type that cannot be read counts as v1. Each
    candidate must also pass an ``ibv_create_ah``; here all do.
    """
    allowed = tuple(subnets)
    candidates = [gid for gid in gids if not allowed or any(_inside(gid, network) for network in allowed)]
    ranked = [(_pass_of(gid), gid.index) for gid in candidates]
    return min(ranked)[1] if ranked else 0


def _inside(gid: Gid, network: IpNetwork) -> bool:
    return gid.ip.version == network.version and gid.ip in network


def _pass_of(gid: Gid) -> int:
    by_address = 0 if isinstance(gid.ip, IPv4Address) else 2 if gid.ip.is_link_local else 1
    return by_address if gid.type == ROCE_V2 else 3 + by_address


def right_by_itself(ports: Sequence[PortDecision], subnets: Iterable[IpNetwork] = ()) -> bool:
    """Return whether UCX takes an own GID of the chosen network on every port."""
    allowed = tuple(subnets)
    return all(predict_index(port.port.gids, allowed) in port.own_indices for port in ports)


def steering_subnet(ports: Sequence[PortDecision]) -> IpNetwork | None:
    """Return the network that makes UCX right on every port, ``None`` if none does."""
    network = covering_network(ports)
    return network if network is not None and right_by_itself(ports, (network,)) else None
