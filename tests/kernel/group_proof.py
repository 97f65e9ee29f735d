"""The proof of a group's rails in the guest, as the leader and its members do it, over pipes alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.group.meeting.card import Rail
from sglang_roce_entry.group.meeting.proof.found import judge_proof, status_of
from sglang_roce_entry.group.meeting.proof.pairs import Nodes
from sglang_roce_entry.group.meeting.proof.relay import Proven
from sglang_roce_entry.verbs.messages import Rail as VerbsRail
from sglang_roce_entry.verbs.proof.prover import Running
from tests.verbs.provers import Provers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sglang_roce_entry.group.meeting.proof.errand import Errand
    from sglang_roce_entry.problems import Problem

Result = dict[str, Any]
MOST_S = 90.0


def prove(rails_of: Mapping[int, Sequence[VerbsRail]]) -> Result:
    """Prove the rails of the nodes against each other.

    ``outcomes`` by ``RAIL:NEAR-FAR``: status, cause, all that is known, and the problems of this pair alone;
    ``problems`` of the group; seconds from the first pair on, and those before it.
    """
    cards = {
        node: tuple(
            Rail(one.device, 1, f"10.{at}.0.0/24", f"10.{at}.0.{node + 1}", one.gid_index, 100.0, 1024, proof=True)
            for at, one in enumerate(rails)
        )
        for node, rails in rails_of.items()
    }
    nodes = Nodes(cards, dict.fromkeys(cards))
    memory_kib: dict[str, int] = {}
    provers = Provers(nodes, rails_of, {"PATH": "/usr/bin"}, lambda errands: _weigh(errands, memory_kib))
    proof = provers.run()
    outcomes = {
        f"{pair.position}:{pair.near}-{pair.far}": (
            *status_of(one),
            asdict(one),
            _told(judge_proof(Proven({pair: one}, {}, nodes), {})),
        )
        for pair, one in proof.outcomes.items()
    }
    return {
        "outcomes": outcomes,
        "problems": _told(judge_proof(proof.results(), {})),
        "seconds": provers.seconds,
        "start_s": provers.start_s,
        "said": provers.said,
        "memory_kib": memory_kib,
    }


def _weigh(errands: Iterable[Errand], most_kib: dict[str, int]) -> None:
    """Note how much of a process is in memory at most, and pinned now."""
    for prover in [one._prover for one in errands]:
        if isinstance(prover, Running) and prover._pid is not None:
            for line in Path(f"/proc/{prover._pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in {"VmHWM", "VmPin"}:
                    most_kib[name] = max(most_kib.get(name, 0), int(value.split()[0]))


def _told(problems: Sequence[Problem]) -> list[list[str]]:
    return [[one.severity, one.code, one.message] for one in problems]


def prove_apart(
    rails_of: Mapping[int, Sequence[VerbsRail]], *inside: str, interpreter: str = sys.executable
) -> Result:
    """Do the same in a process of its own, ``inside`` of what limits it."""
    asked = json.dumps({node: [asdict(one) for one in rails] for node, rails in rails_of.items()})
    done = subprocess.run(
        [*inside, interpreter, "-m", "tests.kernel.group_proof", asked],
        capture_output=True,
        text=True,
        timeout=MOST_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: Result = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str]) -> None:
    """Prove the rails that are named, and write what came of it."""
    asked = json.loads(arguments[0])
    print(json.dumps(prove({int(node): [VerbsRail(**one) for one in rails] for node, rails in asked.items()})))


if __name__ == "__main__":
    main(sys.argv[1:])
