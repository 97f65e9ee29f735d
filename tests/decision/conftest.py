"""One call from a fake node to the decision on its fabric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric import consumers, requirements
from sglang_roce_entry.fabric.choice import Choice, choose
from sglang_roce_entry.fabric.constraints import Constraints, with_given
from sglang_roce_entry.fabric.control import no_interface
from sglang_roce_entry.fabric.nccl.files import given_values
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.facts import Libibverbs
from sglang_roce_entry.plan.merge import Variable, in_effect, merge
from sglang_roce_entry.problems import Problem

if TYPE_CHECKING:
    from tests.trees import Node


@dataclass(frozen=True)
class Outcome:
    """A decision with its variables, for short assertions."""

    decision: Choice
    variables: Mapping[str, Variable]
    problems: tuple[Problem, ...]

    @property
    def used(self) -> dict[str, int | None]:
        return {r.decision.label: r.gid_index for r in self.decision.ports if r.decision.used}

    @property
    def left(self) -> dict[str, str | None]:
        return {r.decision.label: r.decision.reason for r in self.decision.ports if not r.decision.used}

    @property
    def codes(self) -> list[str]:
        return [problem.code for problem in self.problems]

    def value(self, name: str) -> str | None:
        return self.variables[name].value

    def problem(self, code: str) -> str:
        return next(one.message for one in self.problems if one.code == code)


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
        asked = Constraints(
            rdma=rdma,
            rdma_by_flag=rdma_explicit,
            selector=parse_selector(hca) if hca else None,
            selector_origin=hca_origin if hca else "",
            subnets=tuple(ip_network(one) for one in subnets),
            family=family,
            allow_foreign_gids=allow_foreign,
        )
        given = given_values(environ or {}, files)
        host = node.host()
        facts = replace(collect(host, {}), libibverbs=host.answers.libibverbs() or Libibverbs())
        choice = choose(facts, with_given(asked, given, nccl), no_interface("no group here"))
        variables = merge(given, consumers.wishes(choice, Use()))
        wrong = consumers.check(in_effect(given, variables), choice, Use())
        problems = (*choice.problems, *wrong, *requirements.check(choice))
        return Outcome(choice, {one.name: one for one in variables}, problems)

    return run


def rail(node: Node, number: int, *, index: int = 2, gbps: float = 200, **hca: object) -> Node:
    """Add ``mlx5_<number>`` on ``net<number>`` with 10.<number>.0.1, its v2 GID at ``index`` + 1."""
    port = node.hca(f"mlx5_{number}", **hca).port(gbps=gbps)  # type: ignore[arg-type]
    port.pair(f"fe80::{number + 1}", f"net{number}", 0).pair(f"10.{number}.0.1", f"net{number}", index)
    node.interface(f"net{number}", f"10.{number}.0.1/24", f"fe80::{number + 1}/64")
    return node
