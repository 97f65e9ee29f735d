"""A group whose members agree, for tests that let one of them deviate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.group.meeting.card import Card, Own, Rail, make, read_card, read_common
from sglang_roce_entry.group.meeting.comparison.compare import Member, Rules, judge
from sglang_roce_entry.server.compared.agreement import MUST_AGREE, SECRETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sglang_roce_entry.group.meeting.comparison.verdict import Verdict

RULES = Rules(MUST_AGREE, SECRETS)
NOW = 1_764_000_000.0
COMMON: Mapping[str, str] = {
    "launcher": "1.0",
    "sglang": "0.5.23",
    "nccl": "2.28.9",
    "torch": "2.9.1",
    "driver": "580.95.05",
    "gpus": "8",
    "gpu_model": "NVIDIA H100 80GB HBM3",
    "rdma": "RoCE",
    "family": "IPv4",
    "rails": "8",
    "rail_rates": "400",
    "roce_mtu": "4096",
    "--model-path": "/models/m",
    "--nnodes": "4",
    "--tp-size": "32",
    "--dtype": "bfloat16",
    "--trust-remote-code": "true",
    "--api-key": "digest 0011223344556677",
    "NCCL_NET": "IB",
    "NCCL_IB_TC": "106",
}


@dataclass(frozen=True)
class Group:
    """Cards as their nodes make them, and what has become of them on the wire."""

    cards: tuple[Card, ...]

    def members(self) -> list[Member]:
        """Return the members as the leader has them: cards that were read, 3 ms after the greeting."""
        return [
            Member(read_card(card.line()), f"10.0.0.{card.index + 1}", NOW - 0.002, NOW + 0.001)
            for card in self.cards
        ]

    def commons(self) -> dict[str, Mapping[str, str]]:
        return {card.digest: read_common(card.common_text(), card.digest) for card in self.cards}

    def verdict(self, rules: Rules = RULES) -> Verdict:
        return judge(self.members(), self.commons(), rules)

    def but(self, index: int, common: Mapping[str, str | None] | None = None, **changed: Any) -> Group:
        """Return the group with another card of ``index``; a common value of ``None`` is absent."""
        old = self.cards[index]
        kept = {key: value for key, value in {**(old.common or {}), **(common or {})}.items() if value is not None}
        own = replace(old.own, **{key: value for key, value in changed.items() if hasattr(old.own, key)})
        rest = {key: value for key, value in changed.items() if not hasattr(old.own, key)}
        card = replace(make(old.group, old.size, old.index, old.pod, own, kept, old.refusal), **rest)
        return Group(tuple(card if place == index else one for place, one in enumerate(self.cards)))


def rails(index: int, networks: Iterable[str] = (), *, routed: bool | None = False) -> tuple[Rail, ...]:
    """Return the rails of node ``index``: one in each network, ``10.<rail>.0.0/16`` if none are given."""
    named = list(networks) or [f"10.{rail}.0.0/16" for rail in range(8)]
    return tuple(
        Rail(
            f"mlx5_{rail}",
            1,
            network,
            network.split("/")[0].removesuffix(".0") + f".{index + 1}",
            3,
            400.0,
            4096,
            routed,
        )
        for rail, network in enumerate(named)
    )


def group(
    size: int = 4,
    common: Mapping[str, str] = COMMON,
    of_rails: Callable[[int], tuple[Rail, ...]] = rails,
) -> Group:
    """Return ``size`` healthy members that agree."""
    return Group(
        tuple(
            make(
                "sglang-0.sglang:20000",
                size,
                index,
                f"sglang-0-{index}" if index else "sglang-0",
                Own(f"10.0.0.{index + 1}", "eth0", f"machine{index}", f"namespace{index}", NOW, of_rails(index)),
                {**common, "--nnodes": str(size)},
            )
            for index in range(size)
        )
    )
