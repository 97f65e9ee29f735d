"""The comparison: members in, one verdict out. Pure.

Only keys whose values differ are looked at node by node: sets of 10,000 indices for each of 1,000 equal keys
would cost more than the meeting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sglang_roce_entry.group.meeting.card import Card
from sglang_roce_entry.group.meeting.comparison.keys import (
    ABSENT,
    ERROR,
    INFO,
    KEYS_BY_NAME,
    Key,
    find_key,
    rank_of,
    severity_of,
)
from sglang_roce_entry.group.meeting.comparison.rails import compare_rails
from sglang_roce_entry.group.meeting.comparison.verdict import Difference, Verdict, between, listed
from sglang_roce_entry.problems import (
    Problem,
    config_error,
    error,
    errors_first,
    hardened,
    warning,
)

#: Clocks that are further apart make logs of two pods unreadable side by side.
CLOCKS_APART_S = 2.0


@dataclass(frozen=True, slots=True)
class Member:
    """One who came: the card, the address that the leader sees, and the leader's wall clock around the card.

    ``greeted_at_s``: when the greeting was sent, ``received_at_s``: when the card was read. On the leader's own
    card both are its clock.
    """

    card: Card
    address: str
    greeted_at_s: float
    received_at_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What is handed in: arguments that all ranks must share, and those whose difference is only told.

    Any other argument that differs is a warning. ``strict`` makes wrong values errors.
    """

    must_agree: frozenset[str] = frozenset()
    told_only: frozenset[str] = frozenset()
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What the comparison found so far, with the problem of each difference."""

    differences: list[Difference] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, difference: Difference, problem: Problem | None) -> None:
        """Take one difference, and the problem that it is."""
        self.differences.append(difference)
        if problem is not None:
            self.problems.append(problem)


def judge(members: Sequence[Member], commons: Mapping[str, Mapping[str, str]], rules: Rules) -> Verdict:
    """Return the verdict on ``members``, the leader's card among them; ``commons`` are texts by their digest.

    A refusal decides alone: a launcher that cannot start has no plan to compare. So it may be judged before all
    have come.
    """
    members = sorted(members, key=lambda member: member.card.index)
    pods = {member.card.index: member.card.pod for member in members}
    refused = list(_refusals(members, pods))
    if refused:
        return Verdict(tuple(refused))
    found = Found(problems=[*_twice(members), *_one_machine(members, pods)])
    _sizes(members, pods, found)
    _commons(members, commons, pods, rules, found)
    for difference, problem in compare_rails(
        [(member.card.index, member.card.own.rails) for member in members], pods
    ):
        found.add(difference, problem)
    _clocks(members, pods, found)
    problems = hardened(tuple(found.problems), strict=rules.strict)
    return Verdict(errors_first(problems), tuple(found.differences))


def _refusals(members: Iterable[Member], pods: Mapping[int, str]) -> Iterator[Problem]:
    """Yield each member's own refusal; many that refuse alike are one."""
    alike: dict[tuple[str, str, str, int], list[int]] = {}
    for member in members:
        refusal = member.card.refusal
        if refusal is not None:
            key = (refusal.code, refusal.message, refusal.hint, refusal.exit_code)
            alike.setdefault(key, []).append(member.card.index)
    for (code, message, hint, exit_code), indices in alike.items():
        yield error(code, f"{listed(indices, pods)} cannot start: {message}", hint, exit_code)


def _twice(members: Sequence[Member]) -> Iterator[Problem]:
    indices = Counter(member.card.index for member in members)
    for index in (index for index, times in indices.items() if times > 1):
        claims = [f"{one.card.pod or '?'} at {one.address}" for one in members if one.card.index == index]
        yield config_error(
            "INDEX_TWICE",
            f"worker index {index} is claimed by {' and by '.join(claims)}",
            "give each pod an index of its own: LWS_WORKER_INDEX, --worker-index or --node-rank",
        )


def _one_machine(members: Sequence[Member], pods: Mapping[int, str]) -> Iterator[Problem]:
    """Yield the members that run on one kernel: in one network namespace their ports collide."""
    machines: dict[str, list[Member]] = {}
    for member in members:
        if member.card.own.machine is not None:
            machines.setdefault(member.card.own.machine, []).append(member)
    for together in machines.values():
        indices = sorted({member.card.index for member in together})
        if len(indices) < 2:
            continue
        networks: dict[str, set[int]] = {}
        for member in together:
            if member.card.own.namespace is not None:
                networks.setdefault(member.card.own.namespace, set()).add(member.card.index)
        colliding = [sorted(those) for those in networks.values() if len(those) > 1]
        for those in colliding:
            yield config_error(
                "MACHINE_SHARED",
                f"{listed(those, pods)} are on one machine and share its network: SGLang's ports collide",
                "put each pod on a node of its own (podAntiAffinity, or all of a node's GPUs in each pod), or do "
                "without hostNetwork; on one machine on purpose: --meeting off",
            )
        if not colliding:
            yield warning(
                "MACHINE_SHARED",
                f"{listed(indices, pods)} are on one machine: they share its NICs, and NCCL connects them through "
                "them",
                "put each pod on a node of its own: podAntiAffinity, or request all GPUs of a node in each pod",
            )


def _sizes(members: Sequence[Member], pods: Mapping[int, str], found: Found) -> None:
    sizes: dict[str, list[int]] = {}
    for member in members:
        sizes.setdefault(str(member.card.size), []).append(member.card.index)
    if len(sizes) > 1:
        found.add(*_difference(KEYS_BY_NAME["size"], sizes, pods, ERROR))


def _commons(
    members: Sequence[Member],
    commons: Mapping[str, Mapping[str, str]],
    pods: Mapping[int, str],
    rules: Rules,
    found: Found,
) -> None:
    """Compare the texts behind the digests key by key."""
    holders: dict[str, list[int]] = {}
    for member in members:
        holders.setdefault(member.card.digest, []).append(member.card.index)
    unread = sorted(index for digest, indices in holders.items() if digest not in commons for index in indices)
    read = {digest: commons[digest] for digest in holders if digest in commons}
    merged: dict[tuple[str, ...], tuple[int, ...]] = {}
    differing = {
        name: values
        for name in sorted({name for common in read.values() for name in common}, key=rank_of)
        if (values := _values(name, read, holders, merged))
    }
    releases = {common["nccl"] for common in read.values() if "nccl" in common}
    sizes = next((one.values for one in found.differences if one.key == "size"), None)
    partitions = {name: _partition(values) for name, values in differing.items()}
    if sizes is not None:
        partitions["size"] = _partition(sizes)
    unknown = []
    for name, values in differing.items():
        key = find_key(name, rules.must_agree, rules.told_only)
        if key is None:
            unknown.append(name)
            continue
        difference, problem = _difference(key, values, pods, severity_of(key, differing, releases))
        explained = any(_explains(cause, partitions[name], partitions) for cause in key.explained_by)
        found.add(difference, None if explained else problem)
    if unknown:
        found.problems.append(_only_one_launcher_knows(unknown))
    if unread:
        found.problems.append(
            warning(
                "COMPARISON_INCOMPLETE",
                f"more than {len(read)} kinds of cards: {listed(unread, pods)} were not compared",
                "correct what was found, and rehearse again",
            )
        )


def _values(
    name: str,
    read: Mapping[str, Mapping[str, str]],
    holders: Mapping[str, Sequence[int]],
    merged: dict[tuple[str, ...], tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """Return who has which value; nothing, and without looking at anybody, where there is only one.

    ``merged`` keeps the indices behind several digests: 2,000 keys of one odd card split the others alike.
    """
    by_value: dict[str, list[str]] = {}
    for digest, common in read.items():
        by_value.setdefault(common.get(name, ABSENT), []).append(digest)
    if len(by_value) < 2:
        return {}
    for digests in by_value.values():
        together = tuple(digests)
        if together not in merged:
            merged[together] = tuple(sorted(index for digest in together for index in holders[digest]))
    return {value: merged[tuple(digests)] for value, digests in by_value.items()}


def _partition(values: Mapping[str, Sequence[int]]) -> frozenset[tuple[int, ...]]:
    return frozenset(tuple(indices) for indices in values.values())


def _explains(
    cause: str, effect: frozenset[tuple[int, ...]], partitions: Mapping[str, frozenset[tuple[int, ...]]]
) -> bool:
    """Return whether ``cause`` differs, and between the same nodes: one fault has one name."""
    return partitions.get(cause) == effect


def _difference(
    key: Key, values: Mapping[str, Sequence[int]], pods: Mapping[int, str], severity: str
) -> tuple[Difference, Problem | None]:
    message, odd = between(key.subject, values, pods)
    kept = {value: tuple(indices) for value, indices in values.items()}
    difference = Difference(key.name, severity, kept, odd, key.code, message)
    if severity == INFO:
        return difference, None
    return difference, Problem(severity, key.code, message, key.hint, key.exit_code, value=key.value)


def _only_one_launcher_knows(names: Sequence[str]) -> Problem:
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return warning(
        "COMPARISON_INCOMPLETE",
        f"another release of this launcher knows more than the leader's: {shown} not compared",
        "give all pods of the group the same image",
    )


def _clocks(members: Sequence[Member], pods: Mapping[int, str], found: Found) -> None:
    """Find the clocks that are apart whatever the card's way took: the leader may have read it late."""
    spans = {
        member.card.index: (
            member.card.own.clock_s - member.received_at_s,
            member.card.own.clock_s - member.greeted_at_s,
        )
        for member in members
        if member.card.own.clock_s is not None
    }
    if len(spans) < 2:
        return
    usual = _usual_clock(list(spans.values()))
    apart: dict[str, list[int]] = {}
    for index, (low, high) in spans.items():
        ahead, behind = low - usual, high - usual
        if ahead > CLOCKS_APART_S or behind < -CLOCKS_APART_S:
            nearest = ahead if ahead > 0 else behind
            apart.setdefault(f"{abs(nearest):.1f} s {'ahead' if nearest > 0 else 'behind'}", []).append(index)
    if not apart:
        return
    odd = sorted(index for indices in apart.values() for index in indices)
    said = "; ".join(f"{value} on {listed(indices, pods)}" for value, indices in list(apart.items())[:4])
    together = [index for index in spans if index not in odd]
    message = f"the wall clock is {said}, against {listed(together, pods)}"
    values = {value: tuple(indices) for value, indices in apart.items()} | {"together": tuple(together)}
    problem = warning("CLOCK_DIFFERS", message, "set the node's clock: chronyc tracking, timedatectl")
    alone = tuple(odd) if len(spans) > 2 else None
    found.add(Difference("clock", "warning", values, alone, "CLOCK_DIFFERS", message), problem)


def _usual_clock(spans: Sequence[tuple[float, float]]) -> float:
    """Return the offset that most spans allow, each wider by half of what may be apart (Marzullo's algorithm)."""
    half = CLOCKS_APART_S / 2
    edges = sorted([(low - half, -1) for low, _ in spans] + [(high + half, 1) for _, high in spans])
    allowed = most = 0
    start = end = 0.0
    for place, (edge, kind) in enumerate(edges):
        allowed -= kind
        if allowed > most:
            most, start, end = allowed, edge, edges[place + 1][0]
    return (start + end) / 2
