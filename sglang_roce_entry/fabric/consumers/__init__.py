"""The libraries that read the choice: one file each, all with the same three parts in the same order.

``READS``: the variables, with the source. ``wishes(choice, use)``: what we set. ``check(given, choice,
use)``: what is wrong with values that the pod or a file has set. No file uses another. A new library is
a new file and its name in ``CONSUMERS``.
"""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.fabric.affinity import Affinity
from sglang_roce_entry.fabric.choice import Choice
from sglang_roce_entry.fabric.consumers import gloo, mooncake, mori, nccl, nvshmem, sglang, ucx
from sglang_roce_entry.fabric.consumers.sglang import TransferHcas
from sglang_roce_entry.fabric.use import MOONCAKE, Use
from sglang_roce_entry.fabric.wishes import Given, Wish
from sglang_roce_entry.problems import Problem

CONSUMERS = (nccl, gloo, nvshmem, mooncake, mori, ucx, sglang)


def wishes(choice: Choice, use: Use) -> tuple[Wish, ...]:
    """Return the wishes of all libraries."""
    return tuple(wish for library in CONSUMERS for wish in library.wishes(choice, use))


def check(given: Mapping[str, Given], choice: Choice, use: Use) -> tuple[Problem, ...]:
    """Return what is wrong with the ``given`` values that are in effect."""
    return tuple(problem for library in CONSUMERS for problem in library.check(given, choice, use))


def transfer_hcas(choice: Choice, use: Use, affinity: Affinity) -> TransferHcas:
    """Return how the KV transfer is given its HCAs: those that the library which carries it can use."""
    ports = mooncake.carrying(choice, use) if use.kv_backend == MOONCAKE else choice.used
    return sglang.transfer_hcas(choice, use, affinity, mooncake.names_on_one_port(ports))
