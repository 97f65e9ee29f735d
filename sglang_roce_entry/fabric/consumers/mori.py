"""MoRI, AMD's library for the KV transfer and the exchange of experts: its variables.

Source of the rules: ROCm/mori ``src/application/transport/rdma`` (``MORI_RDMA_DEVICES``: plain names, ``^``
excludes; ``MORI_IB_GID_INDEX``, else a scoring of its own that prefers RoCE v2 with IPv4, 169.254/16 too) and
``MORI_SOCKET_IFNAME``, else an interface that it guesses. SGLang 0.5.23 copies ``--disaggregation-ib-device`` into
``MORI_RDMA_DEVICES`` as it is (``srt/disaggregation/mori/conn.py``). Read, not run: no judge has this library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.control import wish_interface
from sglang_roce_entry.fabric.given_checks import check_device_names, check_index
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.fabric.wishes import Given, Wish, found, shown, unset
from sglang_roce_entry.problems import Problem, config_value

_DEVICES, _INDEX, _INTERFACE = READS = ("MORI_RDMA_DEVICES", "MORI_IB_GID_INDEX", "MORI_SOCKET_IFNAME")


def wishes(choice: Choice, use: Use) -> Sequence[Wish]:
    """Return what is set for MoRI."""
    if not use.mori:
        return [shown(name) for name in READS]
    names = dict.fromkeys(port.hca.name for port in choice.used)
    devices = (
        found(_DEVICES, ",".join(names), "the HCAs with a used port")
        if names
        else unset(_DEVICES, choice.unused_because)
    )
    return (devices, choice.index_wish(_INDEX), wish_interface(_INTERFACE, choice.control))


def check(given: Mapping[str, Given], choice: Choice, use: Use) -> Sequence[Problem]:
    """Return what is wrong with given values of MoRI's."""
    if not use.mori:
        return ()
    devices = given.get(_DEVICES)
    known = [hca.name for hca in choice.facts.hcas]
    entries = [part for part in devices.value.removeprefix("^").split(",") if part] if devices is not None else []
    return (
        *(check_device_names(devices, entries, known, "MoRI") if devices is not None else ()),
        *check_index(given, choice.used, None, _INDEX, "MoRI"),
        *_check_map(use),
    )


def _check_map(use: Use) -> Iterator[Problem]:
    named = use.transfer_hcas
    if named is None or not named.text.strip().startswith("{"):
        return
    yield config_value(
        "MORI_MAP",
        f"{named.where} is a map of GPUs to HCAs, which MoRI takes for the name of one device",
        f"remove it: {_DEVICES} is filled in, or write the names with commas",
    )
