"""Mooncake's transfer engine: its variables, and a model of the GID index it takes by itself.

Source of the rules: kvcache-ai/Mooncake ``src/config.cpp`` (``MC_GID_INDEX``, else
``NCCL_IB_GID_INDEX``, 0 to 255, by ``atoi``) and ``rdma_context.cpp`` with ``rdma_gid_probe.h``. The
rule has changed twice; where the release is not known, a choice is right only if every generation
makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from sglang_roce_entry.fabric.nccl.settings import parse_c_integer
from sglang_roce_entry.fabric.rules import PortDecision
from sglang_roce_entry.host.facts import ROCE_V2, Gid

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
        return _first_ipv4(ordered)
    if generation == TO_0_3_11:
        return _ipv4_then_ipv6(ordered)
    return _by_class(ordered)


def _is_v2(gid: Gid) -> bool:
    return gid.type in (ROCE_V2, None)


def _first_ipv4(gids: Sequence[Gid]) -> int:
    # getBestGidIndex: IPv4 with a netdev, else the first IPv4, else index 0 (from 0.3.8 on: none).
    found = [gid for gid in gids if _is_v2(gid) and isinstance(gid.ip, IPv4Address)]
    with_netdev = [gid for gid in found if gid.netdev]
    return (with_netdev or found)[0].index if found else 0


def _ipv4_then_ipv6(gids: Sequence[Gid]) -> int | None:
    # findBestGidIndex before the classes: ends at the first slot that is empty.
    gapless = [gid for position, gid in enumerate(gids) if gid.index == position and _is_v2(gid)]
    for ipv4 in (True, False):
        found = [gid for gid in gapless if isinstance(gid.ip, IPv4Address) is ipv4]
        with_netdev = [gid for gid in found if gid.netdev]
        if found:
            return (with_netdev or found)[0].index
    return None


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


def forced_index(values: Mapping[str, str]) -> int | None:
    """Return the index that the environment forces on Mooncake, ``None`` if it chooses by itself."""
    text = values.get("MC_GID_INDEX") or values.get("NCCL_IB_GID_INDEX")
    index = parse_c_integer(text)[0] if text else None
    return index if index is not None and 0 <= index <= _LARGEST_INDEX else None


def generations(version: tuple[int, ...] | None) -> tuple[str, ...]:
    """Return the generations of the rule that a release may have: its own, or all if it is unknown."""
    if version is None:
        return GENERATIONS
    if version < (0, 3, 10):
        return (TO_0_3_9,)
    return (TO_0_3_11,) if version < (0, 3, 12) else (FROM_0_3_12,)


def wrong_by_itself(port: PortDecision, version: tuple[int, ...] | None = None) -> str | None:
    """Return how the own choice of Mooncake ``version`` on ``port`` is wrong, ``None`` if it is right."""
    own = {choice.gid.index for choice in port.choices}
    wrong: dict[str, list[str]] = {}
    for generation in generations(version):
        index = predict_index(port.port.gids, generation)
        if index in own:
            continue
        gid = next((one for one in port.port.gids if one.index == index), None)
        what = "finds none" if index is None else f"takes index {index} ({gid.ip if gid else 'empty'})"
        wrong.setdefault(what, []).append(generation)
    if not wrong:
        return None
    return "; ".join(f"Mooncake {', '.join(which)} {what}" for what, which in wrong.items())
