"""What only the card of a meeting needs of a node: more versions, the machine, ways out of its rails."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import IpAddress
from sglang_roce_entry.host.further.routes import has_gateway
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.host.installed import (
    MOONCAKE_DISTRIBUTIONS,
    NVSHMEM_DISTRIBUTIONS,
    distribution_versions,
    driver_version,
    first_version,
)
from sglang_roce_entry.host.network import main_table
from sglang_roce_entry.host.tree import attribute_or_none, lines_or_empty

#: The first of the channels with which pods of one NVLink domain share memory (NVIDIA IMEX).
_IMEX_CHANNEL = "/dev/nvidia-caps-imex-channels/channel0"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Facts of the node beside those of the plan; ``None``: not known. ``gateways`` holds what was asked for."""

    versions: dict[str, str]
    gpu_models: tuple[str, ...]
    imex: bool
    boot_id: str | None
    network_namespace: str | None
    gateways: dict[str, bool | None]


def read_card_facts(host: Host, rails: Iterable[tuple[str, IpAddress]]) -> CardFacts:
    """Return the facts of this machine; ``rails`` are interfaces with the address that is used on each."""
    tree = host.tree
    installed = distribution_versions(("torch", *MOONCAKE_DISTRIBUTIONS, *NVSHMEM_DISTRIBUTIONS))
    found = {
        "torch": installed.get("torch"),
        "mooncake": first_version(installed, MOONCAKE_DISTRIBUTIONS),
        "nvshmem": first_version(installed, NVSHMEM_DISTRIBUTIONS),
        "driver": driver_version(next(iter(lines_or_empty(tree, "/proc/driver/nvidia/version")), None)),
    }
    routed = {(route.interface, route.version) for route in main_table(tree) if route.gateway}
    owned = {
        (interface.name, address.ip): address
        for interface in host.answers.interfaces()
        for address in interface.addresses
    }
    return CardFacts(
        versions={name: version for name, version in found.items() if version},
        gpu_models=tuple(gpu.model for gpu in read_gpus(host, places=True).devices if gpu.usable and gpu.model),
        imex=host.answers.open_node(_IMEX_CHANNEL) == "ok",
        boot_id=attribute_or_none(tree, "/proc/sys/kernel/random/boot_id") or None,
        network_namespace=_network_namespace(),
        gateways={
            name: True if (name, address.version) in routed else has_gateway(name, owned[name, address])
            for name, address in rails
            if (name, address) in owned
        },
    )


def _network_namespace() -> str | None:
    """Return ``net:[4026531840]``, the number of this process's network namespace in this kernel."""
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return None
