"""Mooncake's transfer engine: its variables, and a model of the GID index it takes by itself.

Source of the rules: kvcache-ai/Mooncake ``src/config.cpp`` (``MC_GID_INDEX``, else
``NCCL_IB_GID_INDEX``, 0 to 255, by ``atoi``) and ``rdma_context.cpp`` with ``rdma_gid_probe.h``. The
rule has changed twice; where the release is not known, a choice is right only if every generation
makes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from sglang_roce_entry.fabric.candidates import PortDecision
from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.given_checks import check_device_names, check_index
from sglang_roce_entry.fabric.nccl.numbers import parse_c_integer
from sglang_roce_entry.fabric.use import MOONCAKE, Use
from sglang_roce_entry.fabric.wishes import Given, Wish, found, shown, traffic, unset
from sglang_roce_entry.host.facts import ROCE_V2, Gid
from sglang_roce_entry.problems import Problem, rdma_value, shortened, warning

_LISTS = ("MC_TE_FILTERS", "MC_MS_FILTERS", "MOONCAKE_DEVICE")
_TRAFFIC = ("MC_IB_TC", "MC_IB_SL")
#: Connects HCAs of one name only, and any HCA where the names differ.
_AFFINITY = "MC_ENABLE_DEST_DEVICE_AFFINITY"

READS = ("MC_GID_INDEX", "NCCL_IB_GID_INDEX", "MC_IB_PORT", _AFFINITY, *_LISTS, *_TRAFFIC)


def wishes(choice: Choice, use: Use) -> Sequence[Wish]:
    """Return what is set for Mooncake."""
    index = choice.index_wish("MC_GID_INDEX")
    if not choice.used:
        return (index,)
    return (index, *traffic(_TRAFFIC, used=use.mooncake), *_port(choice, use), _filter(choice, use))


def _port(choice: Choice, use: Use) -> Sequence[Wish]:
    number = common_port(carrying(choice, use))
    if number == 1:
        return ()
    return (found("MC_IB_PORT", str(number), f"every used HCA uses its port {number}; Mooncake assumes 1"),)


def _filter(choice: Choice, use: Use) -> Wish:
    name, names = "MC_TE_FILTERS", names_on_one_port(carrying(choice, use))
    if not use.mooncake or set(names) == {hca.name for hca in choice.facts.hcas}:
        return shown(name)
    if use.kv_backend == MOONCAKE:
        return unset(name, "SGLang passes the HCAs to Mooncake by its own option")
    return found(name, ",".join(names), "without an SGLang option, Mooncake takes every active HCA")


def common_port(ports: Sequence[PortDecision]) -> int:
    """Return the port number that Mooncake and NIXL use on every HCA: 1, or the one that all used ports have."""
    numbers = {port.port.number for port in ports}
    return numbers.pop() if len(numbers) == 1 else 1


def names_on_one_port(ports: Sequence[PortDecision]) -> list[str]:
    """Return the HCAs of ``ports`` that are on the common port."""
    number = common_port(ports)
    return list(dict.fromkeys(port.hca.name for port in ports if port.port.number == number))


def carrying(choice: Choice, use: Use) -> Sequence[PortDecision]:
    """Return the used ports that Mooncake can use: those on which its own choice of a GID is right."""
    spoilt = _spoilt(choice, use)
    return [port for port in choice.used if port.label not in spoilt] or choice.used


def _spoilt(choice: Choice, use: Use) -> dict[str, str]:
    """Return the used ports on which Mooncake would take a wrong GID, with how, by label.

    Where an index is forced on it, that one is right or already reported.
    """
    if not use.mooncake or choice.index.index is not None or forced_index(choice.constraints.given) is not None:
        return {}
    found = {port.label: wrong_by_itself(port, use.mooncake_version) for port in choice.used}
    return {label: how for label, how in found.items() if how is not None}


def forced_index(given: Mapping[str, Given]) -> int | None:
    """Return the index that the environment forces on Mooncake, ``None`` if it chooses by itself."""
    one = given.get("MC_GID_INDEX") or given.get("NCCL_IB_GID_INDEX")
    index = parse_c_integer(one.value)[0] if one is not None else None
    return index if index is not None and 0 <= index <= _LARGEST_INDEX else None


def check(given: Mapping[str, Given], choice: Choice, use: Use) -> Sequence[Problem]:
    """Return what is wrong with given values of Mooncake's, and with its own choice."""
    if not choice.used:
        return ()
    return (
        *_check_own_choice(choice, use),
        *check_index(given, choice.used, None, "MC_GID_INDEX", "Mooncake"),
        *_check_inherited(given, choice, use),
        *_check_lists(given, choice),
        *_check_port(given.get("MC_IB_PORT"), choice.used),
        *(_check_networks(given.get(_AFFINITY), choice, use) if use.mooncake else ()),
    )


def _check_own_choice(choice: Choice, use: Use) -> Iterator[Problem]:
    wrong = _spoilt(choice, use)
    if not wrong:
        return
    outcome = "transfers there would fail"
    if len(wrong) < len(choice.used) and not use.named:
        outcome = "it is not given these"
    listed = "; ".join(f"{label}: {how}" for label, how in wrong.items())
    yield rdma_value(
        "MOONCAKE_GID",
        f"no index fits all ports, and Mooncake's own choice is wrong on {len(wrong)} of {len(choice.used)} "
        f"({outcome}): {listed}",
        "reload the driver on the node, so that all ports build their GID tables in the same order",
    )


def _check_inherited(given: Mapping[str, Given], choice: Choice, use: Use) -> Iterator[Problem]:
    """Return a warning where Mooncake also reads an index that was set for NCCL alone."""
    one = given.get("NCCL_IB_GID_INDEX")
    if one is None or "MC_GID_INDEX" in given or not use.mooncake:
        return
    index = parse_c_integer(one.value)[0]
    shared = frozenset.intersection(*(port.own_indices for port in choice.used))
    if index is None or shared or not 0 <= index <= _LARGEST_INDEX:
        return  # where one index is right on all ports, Mooncake is given that one
    yield rdma_value(
        "MC_GID_INHERITED",
        f"Mooncake also reads {one}, which is wrong on some port",
        "remove NCCL_IB_GID_INDEX: both libraries then choose per port",
    )


def _check_lists(given: Mapping[str, Given], choice: Choice) -> Iterator[Problem]:
    known = [hca.name for hca in choice.facts.hcas]
    for one in (given[name] for name in _LISTS if name in given):
        if not one.value.strip().startswith("{") and not one.value.endswith(".json"):
            yield from check_device_names(one, [part.strip() for part in one.value.split(",")], known, "Mooncake")


def _check_port(given: Given | None, used: Sequence[PortDecision]) -> Sequence[Problem]:
    if given is None:
        return ()
    number, whole = parse_c_integer(given.value)
    missing = sorted({port.hca.name for port in used} - {p.hca.name for p in used if p.port.number == number})
    if whole and not missing:
        return ()
    what = f"is not a usable port of {', '.join(missing)}" if whole else "is not a number"
    return (rdma_value("MC_IB_PORT", f"{given} {what}", "remove it: Mooncake assumes 1"),)


def _check_networks(affinity: Given | None, choice: Choice, use: Use) -> Iterator[Problem]:
    """Return a warning where no route leads from the HCAs' networks to each other: Mooncake connects any to any.

    Every pair of unlike rails fails there (NVIDIA-NeMo/RL#2935,
    kvcache-ai/Mooncake#2467, #3828). ``config.cpp`` asks only whether the variable is there.
    """
    if affinity is not None:
        if affinity.value.strip().lower() in ("0", "false", "off", "no"):
            message = (
                f"{affinity} switches it on: Mooncake asks only whether the variable is set, not for its value"
            )
            yield rdma_value("MC_AFFINITY", message, f"remove {_AFFINITY} to switch it off")
        return
    named = use.transfer_hcas
    text = (named.text if named.file_text is None else named.file_text) if named is not None else None
    names = set(re.split(r"[^\w.-]+", text)) if text is not None else None
    ports = [port for port in carrying(choice, use) if names is None or port.hca.name in names]
    facts = choice.facts
    networks = {
        str(port.choices[0].network): None
        for port in ports
        if port.gid is not None and port.choices[0].network and port.gid.netdev not in facts.routed_interfaces
    }
    # Without a default route nothing is known of the routes: a recording, or a pod that has none at all.
    if len(networks) < 2 or not facts.default_route_interfaces:
        return
    yield warning(
        "KV_NETWORKS",
        f"the HCAs of the KV transfer are in {len(networks)} networks ({shortened([*networks], 4)}) without a "
        "route between them in the main table, and Mooncake connects any of them to any of the other side's: such "
        "transfers fail",
        f"{_AFFINITY}=1, where a rail's HCA has one name on all nodes, or HCAs of one network: "
        "--disaggregation-ib-device; no fault if policy routing connects them (ip rule)",
    )


#: The generations of the rule, by the releases that have it.
TO_0_3_9, TO_0_3_11, FROM_0_3_12 = "up to 0.3.9", "0.3.10 and 0.3.11", "from 0.3.12"
GENERATIONS = (TO_0_3_9, TO_0_3_11, FROM_0_3_12)

#: isOverlayIPv4: 192.168.0.0/16 is not among them.
_PRIVATE = (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("100.64.0.0/10"))
_OVERLAY_NAMES = ("flannel", "cni", "calico", "vxlan", "docker")
_LARGEST_INDEX = 255


def predict_index(gids: Sequence[Gid], generation: str = FROM_0_3_12) -> int | None:
    """Return the index that Mooncake takes on a RoCE port, ``None`` if it finds none.

    ``gids`` are the occupied slots. A slot whose type the kernel hides counts as RoCE v2: Mooncake
    asks the driver, which does not hide it.
    """
    ordered = sorted(gids, key=lambda gid: gid.index)
    if generation == TO_0_3_9:
        # getBestGidIndex: IPv4 with a netdev, else the first IPv4, else index 0 (from 0.3.8 on: none).
        return _with_netdev_first(ordered, 4) or 0
    if generation == TO_0_3_11:
        return _ipv4_then_ipv6(ordered)
    return _by_class(ordered)


def _is_v2(gid: Gid) -> bool:
    return gid.type in (ROCE_V2, None)


def _with_netdev_first(gids: Iterable[Gid], version: int) -> int | None:
    found = [gid for gid in gids if _is_v2(gid) and gid.ip.version == version]
    with_netdev = [gid for gid in found if gid.netdev]
    return (with_netdev or found)[0].index if found else None


def _ipv4_then_ipv6(gids: Sequence[Gid]) -> int | None:
    # findBestGidIndex before the classes: ends at the first slot that is empty.
    gapless = [gid for position, gid in enumerate(gids) if gid.index == position]
    ipv4 = _with_netdev_first(gapless, 4)
    return ipv4 if ipv4 is not None else _with_netdev_first(gapless, 6)


def _by_class(gids: Sequence[Gid]) -> int | None:
    ranked = [(_class_of(gid), gid.index) for gid in gids]
    return min(ranked)[1] if ranked else None


def _class_of(gid: Gid) -> int:
    # classifyAutoGidCandidate. 169.254.0.0/16, 192.168.0.0/16 and every routable IPv6 address rank first.
    if not _is_v2(gid):
        return 6
    overlay = gid.netdev is not None and (gid.netdev.startswith(_OVERLAY_NAMES) or gid.netdev == "tunl0")
    if overlay or (gid.ip.is_link_local and gid.ip.version == 6):
        degree = 2
    else:
        degree = int(isinstance(gid.ip, IPv4Address) and any(gid.ip in network for network in _PRIVATE))
    return ((0, 2, 3) if gid.netdev else (1, 4, 5))[degree]


def generations(version: tuple[int, ...] | None) -> tuple[str, ...]:
    """Return the generations of the rule that a release may have: its own, or all if it is unknown."""
    if version is None:
        return GENERATIONS
    if version < (0, 3, 10):
        return (TO_0_3_9,)
    return (TO_0_3_11,) if version < (0, 3, 12) else (FROM_0_3_12,)


def wrong_by_itself(port: PortDecision, version: tuple[int, ...] | None = None) -> str | None:
    """Return how the own choice of Mooncake ``version`` on ``port`` is wrong, ``None`` if it is right."""
    wrong: dict[str, list[str]] = {}
    for generation in generations(version):
        index = predict_index(port.port.gids, generation)
        if index in port.own_indices:
            continue
        gid = port.port.gid_at(index)
        what = "finds none" if index is None else f"takes index {index} ({gid.ip if gid else 'empty'})"
        wrong.setdefault(what, []).append(generation)
    if not wrong:
        return None
    return "; ".join(f"Mooncake {', '.join(which)} {what}" for what, which in wrong.items())
