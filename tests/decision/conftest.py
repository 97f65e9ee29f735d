"""One call from a fake node to the decision on its fabric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.choice import FabricDecision, decide_fabric
from sglang_roce_entry.fabric.constraints import FabricPolicy
from sglang_roce_entry.fabric.consumers.variables import Variable, VariablePlan
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.fabric.nccl.settings import decided_values
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.gpus import read_gpus

if TYPE_CHECKING:
    from tests.trees import Node


@dataclass(frozen=True)
class Outcome:
    """A decision with its variables, for short assertions."""

    decision: FabricDecision
    variables: Mapping[str, Variable]

    @property
    def used(self) -> dict[str, int | None]:
        return {r.decision.label: r.gid_index for r in self.decision.ports if r.decision.used}

    @property
    def left(self) -> dict[str, str | None]:
        return {r.decision.label: r.decision.reason for r in self.decision.ports if not r.decision.used}

    @property
    def codes(self) -> list[str]:
        return [problem.code for problem in self.decision.problems]

    def value(self, name: str) -> str | None:
        return self.variables[name].value

    def problem(self, code: str) -> str:
        return next(one.message for one in self.decision.problems if one.code == code)


Decide = Callable[..., Outcome]


@pytest.fixture
def decide() -> Decide:
    def run(
        node: Node,
        *,
        nccl: tuple[int, ...] | None = (2, 28, 3),
        environ: Mapping[str, str] | None = None,
        files: tuple[tuple[str, str], ...] = (),
        hca: str | None = None,
        hca_origin: str = "SGLANG_ROCE_HCA",
        subnets: tuple[str, ...] = (),
        rdma: str = "required",
        rdma_explicit: bool = False,
        family: str = "auto",
        allow_foreign: bool = False,
    ) -> Outcome:
        host = node.host()
        policy = FabricPolicy(
            rdma=rdma,
            rdma_explicit=rdma_explicit,
            selector=parse_selector(hca) if hca else None,
            selector_origin=hca_origin if hca else "",
            subnets=tuple(ip_network(one) for one in subnets),
            family=family,
            allow_foreign_gids=allow_foreign,
        )
        decided = decided_values(environ or {}, files)
        variables = VariablePlan(decided)
        facts = collect(host, {})
        decision = decide_fabric(facts, read_gpus(host), policy, decided, nccl, variables)
        return Outcome(decision, {one.name: one for one in variables.result()})

    return run


def rail(node: Node, number: int, *, index: int = 2, gbps: float = 200, **hca: object) -> Node:
    """Add ``mlx5_<number>`` on ``net<number>`` with 10.<number>.0.1, its v2 GID at ``index`` + 1."""
    port = node.hca(f"mlx5_{number}", **hca).port(gbps=gbps)  # type: ignore[arg-type]
    port.pair(f"fe80::{number + 1}", f"net{number}", 0).pair(f"10.{number}.0.1", f"net{number}", index)
    node.interface(f"net{number}", f"10.{number}.0.1/24", f"fe80::{number + 1}/64")
    return node
