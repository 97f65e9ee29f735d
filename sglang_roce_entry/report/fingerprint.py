"""One line per pod that is the same on equal nodes: ``kubectl logs -l ... | grep fingerprint``.

Nothing in it depends on the rank, the addresses or the time, so the node that differs stands out.
"""

from __future__ import annotations

from binascii import crc32
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.fabric.constraints import IpNetwork
from sglang_roce_entry.natural import natural_key
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.report.folding import folded_names
from sglang_roce_entry.server.redaction import redacted
from sglang_roce_entry.server.spellings import find_option

#: Bits of the host part of a network that belongs to one link or rack: up to 16 addresses.
_SMALL_BITS = 4
#: What differs between the nodes of a group by design.
_OF_THE_NODE = ("node_rank", "host")


def fingerprint(plan: Plan) -> str:
    """Return the line: HCAs, rails by network, rate, MTU, family, index, versions, GPUs, digest of arguments."""
    rows = plan.choice.used_rows
    facts = plan.facts
    labels = [row.decision.label for row in rows] or list(plan.choice.infiniband)
    parts = [
        f"hcas={len(labels)}:{','.join(folded_names(labels)) or 'none'}",
        f"rails={_rails(rows)}",
        f"gbps={_joined(f'{row.decision.port.rate_gbps or 0:g}' for row in rows)}",
        f"mtu={_joined(_or_dash(facts.mtu_of(row.netdev)) for row in rows)}",
        f"family={_joined(f'ipv{ip_address(row.gid).version}' for row in rows if row.gid)}",
        f"index={_index(plan)}",
        f"nccl={','.join(facts.nccl_versions or ()) or '-'}",
        f"sglang={facts.sglang_version or '-'}",
        f"gpus={_or_dash(plan.gpus.count)}",
        f"args={_digest(plan)}",
    ]
    if plan.choice.plugin is not None:
        parts.insert(1, f"plugin={plan.choice.plugin.replace(' ', '-')}")
    return " ".join(parts)


def _joined(values: Iterable[str]) -> str:
    """Return the different values, each once."""
    return ",".join(sorted(dict.fromkeys(values), key=natural_key)) or "-"


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _rails(rows: Sequence[PortRow]) -> str:
    """Return the networks of the rails; of those that hold one link or rack only, number and length: ``2x/31``.

    Such a network is another one on every node of a routed fabric (NVIDIA/nccl#1804: /31 for each port,
    kvcache-ai/Mooncake#2467: /28 for each rack). An IPv6 /64 for each link looks like a shared network.
    """
    networks = {row.network for row in rows}
    small = Counter(one.prefixlen for one in networks if one is not None and _is_small(one))
    shared = ("foreign" if one is None else str(one) for one in networks if one is None or not _is_small(one))
    return _joined([*shared, *(f"{count}x/{length}" for length, count in small.items())])


def _is_small(network: IpNetwork) -> bool:
    return network.max_prefixlen - network.prefixlen <= _SMALL_BITS


def _index(plan: Plan) -> str:
    variable = next((one for one in plan.variables if one.name == "NCCL_IB_GID_INDEX"), None)
    if variable is None:
        return "-"
    return variable.value if variable.value is not None else "withheld"


def _digest(plan: Plan) -> str:
    """Return a check sum of the user's arguments, without secrets and what differs by node."""
    if plan.command is None:
        return "-"
    kept = _shared(redacted(plan.command.user))
    return f"{crc32(chr(0).join(kept).encode('utf-8', 'surrogateescape')):08x}"


def _shared(argv: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for token in argv:
        if skip and not token.startswith("--"):
            skip = False
            continue
        name, equals, _ = token.partition("=")
        option = find_option(name) if name.startswith("--") else None
        skip = option is not None and option.dest in _OF_THE_NODE
        if not skip:
            kept.append(token)
        skip = skip and not equals
    return kept
