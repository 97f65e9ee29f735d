"""SGLang itself: the address that it uses as its own, and the HCAs that its KV transfer is given.

Checked against the real validation functions of 0.5.5.post2 to 0.5.23: a JSON map of GPUs to HCAs is
read from 0.5.5.post3 on, but 0.5.9 to 0.5.12 take it for a list and reject it
(``_validate_ib_devices``). NIXL reads the option from 0.5.23 on, and not if ``UCX_NET_DEVICES`` is set
(``srt/disaggregation/nixl/conn.py``); before that, only UCX's variable works.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from sglang_roce_entry.fabric.affinity import Affinity
from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.control import told
from sglang_roce_entry.fabric.use import NIXL, NamedHcas, Use
from sglang_roce_entry.fabric.wishes import DISCOVERED, Given, Wish, unset
from sglang_roce_entry.natural import whole_number
from sglang_roce_entry.problems import Problem, config_value

OPTION = "--disaggregation-ib-device"
_MAP_RELEASES = "0.5.5.post3 to 0.5.8, and 0.5.13 and later"

#: From 0.5.23 on: whom its ZeroMQ sockets accept, and from where it connects (``srt/utils/network.py``).
ALLOWED_PEERS, SOURCE_IP = "SGLANG_ZMQ_ALLOWED_PEERS", "SGLANG_ZMQ_SOURCE_IP"
OWN_ADDRESSES = (SOURCE_IP, "SGLANG_HOST_IP", "HOST_IP")
READS = (*OWN_ADDRESSES, ALLOWED_PEERS)


def wishes(choice: Choice, _use: Use) -> Sequence[Wish]:
    """Return what is set for SGLang by a variable."""
    name, control = "SGLANG_HOST_IP", choice.control
    if control.address is None:
        return (unset(name, control.reason),) if control.interface is None else ()
    return (Wish(name, str(control.address), DISCOVERED, told(control), control.by_flag),)


@dataclass(frozen=True, slots=True)
class TransferHcas:
    """The arguments for SGLang (empty: none); ``told`` is what a report says of them and why."""

    tokens: tuple[str, ...] = ()
    told: str | None = None


def transfer_hcas(choice: Choice, use: Use, affinity: Affinity, names: Sequence[str]) -> TransferHcas:
    """Return how the KV transfer is given its HCAs, ``names``."""
    backend = use.kv_backend
    if backend is None:
        return TransferHcas()
    if not choice.used:
        why = choice.plugin or ("InfiniBand ports only" if choice.infiniband else "no usable HCA port")
        return TransferHcas(told=f"{backend}: no {OPTION}, {why}")
    if use.transfer_hcas is not None:
        return TransferHcas(told=f"{backend}: the user's {use.transfer_hcas.where}")
    per_gpu: dict[int, Sequence[str]] = {}
    if affinity.informative:
        for gpu in range(len(affinity.gpus)):
            per_gpu[gpu] = [name for name in affinity.names(gpu) if name in names] or names
    tokens, reason = device_argument(use, names, per_gpu)
    return TransferHcas(tokens, f"{backend}: {OPTION if tokens else f'no {OPTION}'}, {reason}")


def device_argument(
    use: Use, names: Sequence[str], per_gpu: Mapping[int, Sequence[str]]
) -> tuple[tuple[str, ...], str]:
    """Return the argument for ``names``, as a map if ``per_gpu`` differs and SGLang reads one, and why."""
    who = f"SGLang {use.sglang_version}" if use.sglang_version else "SGLang of unknown version"
    if use.kv_backend == NIXL and not use.nixl_reads_option:
        return (), f"{who} does not read it with NIXL (0.5.23 and later do)"
    if not use.has_option:
        return (), f"{who} does not know it (0.4.5.post2 and later do)"
    if not names:
        return (), "no usable HCA port"
    listed, reason = (OPTION, ",".join(names)), "one list for all GPUs"
    if not any(set(devices) != set(names) for devices in per_gpu.values()):
        return listed, f"{reason}: which are near to which GPU is not known, or the same for all"
    if use.reindexed:
        return listed, f"{reason}: SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS renumbers the GPUs"
    if not use.reads_map:
        return listed, f"{reason}: {who} does not read a map"
    mapping = {str(gpu): ",".join(devices) for gpu, devices in sorted(per_gpu.items())}
    return (OPTION, json.dumps(mapping, separators=(",", ":"))), "the nearest HCAs of each GPU"


def check(given: Mapping[str, Given], choice: Choice, use: Use) -> Sequence[Problem]:
    """Return what is wrong with given addresses, and with HCAs that the user has named by an option."""
    used = {port.hca.name for port in choice.used}
    unusable = {
        row.decision.hca.name: f"{row.decision.reason}, {row.decision.detail}"
        for row in choice.ports
        if row.decision.hca.name not in used
    }
    devices = [hca.name for hca in choice.facts.hcas]
    problems = [*_check_addresses(given, choice), *_check_peers(given.get(ALLOWED_PEERS))]
    for named in use.named if devices else ():
        problems += check_named(named, use, devices, unusable if used else {})
    return problems


def _check_addresses(given: Mapping[str, Given], choice: Choice) -> Iterator[Problem]:
    own = {str(address.ip) for interface in choice.facts.interfaces for address in interface.addresses}
    for name in OWN_ADDRESSES:
        one = given.get(name)
        # SGLANG_HOST_IP outranks HOST_IP, whether the pod's or ours.
        outranked = name == "HOST_IP" and (choice.control.address is not None or "SGLANG_HOST_IP" in given)
        if one is None or one.value in own or not own or outranked:
            continue
        yield config_value(
            "HOST_IP_FOREIGN",
            f"{one} is not an address of this pod, but SGLang uses it as its own",
            f"remove {name}; status.hostIP is the node's address, not the pod's",
        )


def allowed_peers(text: str) -> frozenset[str] | None:
    """Return a list as SGLang compares it: addresses, compressed; ``None`` if it cannot read it, and fails."""
    entries = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return frozenset(ip_address(entry).compressed for entry in entries)
    except ValueError:
        return None


def _check_peers(given: Given | None) -> Iterator[Problem]:
    if given is None or allowed_peers(given.value) is not None:
        return
    yield config_value(
        "PEERS_MALFORMED",
        f"{given.name} ({given.where}) is not a list of addresses: SGLang fails when it binds its first socket",
        "write addresses with commas between them, no names, networks or ports; or remove it: it is filled in",
    )


def check_named(named: NamedHcas, use: Use, devices: Sequence[str], unusable: Mapping[str, str]) -> list[Problem]:
    """Return what SGLang would find wrong with HCAs that the user named.

    ``devices`` are all HCAs of the node, ``unusable`` those without a usable port and why.
    """
    text = named.text.strip()

    def wrong(message: str, hint: str) -> Problem:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        return config_value("IB_DEVICE", f"{named.where} {shown!r} {message}", hint)

    remove = f"remove {named.where}: it is filled in"
    mapping: dict[int, str] = {}
    if text.endswith(".json") or text.startswith("{"):
        parsed = _mapping(text, named.file_text)
        if isinstance(parsed, str):
            return [wrong(parsed, remove)]
        mapping = parsed
        if use.sglang_version is not None and not use.reads_map:
            return [
                wrong(f"is a map, which SGLang {use.sglang_version} does not read ({_MAP_RELEASES} do)", remove)
            ]
    groups = list(mapping.values()) or [text]
    names = [name.strip() for group in groups for name in group.split(",") if name.strip()]
    problems = []
    if not names:
        problems.append(wrong("names no HCA", remove))
    with_port = [name for name in names if ":" in name and name not in devices]
    if with_port:
        problems.append(
            wrong(f"has a port in {', '.join(with_port)}", "write the name alone: mlx5_0, not mlx5_0:1")
        )
    missing = [name for name in dict.fromkeys(names) if name not in devices and name not in with_port]
    if missing:
        known = ", ".join(devices) or "none"
        problems.append(wrong(f"names {', '.join(missing)}, which this node does not have", f"HCAs here: {known}"))
    problems.extend(
        wrong(f"names {name}, which cannot be used here: {unusable[name]}", remove)
        for name in dict.fromkeys(names)
        if name in unusable
    )
    unmapped = [gpu for gpu in use.gpus if mapping and gpu not in mapping]
    if unmapped:
        listed = ", ".join(map(str, unmapped))
        problems.append(wrong(f"has no HCA for GPU {listed}: SGLang fails", "name every visible GPU"))
    return problems


def _mapping(text: str, file_text: str | None) -> dict[int, str] | str:
    """Return the map of GPUs, or a sentence on what is wrong with it."""
    content: str | None = text
    if text.endswith(".json"):
        content = file_text
        if content is None:
            return "is a file that cannot be read"
    try:
        document = json.loads(content or "")
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(document, dict) or not document:
        return "is not a JSON object of GPU numbers"
    found: dict[int, str] = {}
    for key, value in document.items():
        if (gpu := whole_number(key)) is None or not isinstance(value, str):
            return f"has {key!r}: keys are GPU numbers, values are names with commas"
        found[gpu] = value
    return found
