"""Waiting, with a clock that only moves when somebody sleeps: no deadline is ever passed."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sglang_roce_entry.group.attempts import NotYet, Surroundings, WaitPolicy
from sglang_roce_entry.group.connect import ACCEPTED, REFUSED, TIMED_OUT, ConnectOutcome
from sglang_roce_entry.group.names import NotResolved, Resolver
from sglang_roce_entry.group.wait import (
    LeaderName,
    await_free_ports,
    await_leader,
    await_own_name,
    life_ports,
    wait_until,
)
from sglang_roce_entry.problems import EntryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ONE, TWO = ip_address("10.0.0.1"), ip_address("10.0.0.2")
SIX = ip_address("fd00::1")


@dataclass
class World:
    """A clock, a resolver and a leader, all scripted."""

    now: float = 100.0
    said: list[tuple[float, str]] = field(default_factory=list)
    lookups: list[float] = field(default_factory=list)
    probes: list[tuple[float, tuple[Any, ...]]] = field(default_factory=list)
    lookup_takes_s: float = 0.0
    probe_takes_s: float = 0.0
    pauses: int = 0
    name: Callable[[float], tuple[Any, ...] | str] = lambda _t: (ONE,)
    port: Callable[[float, tuple[Any, ...]], str] = lambda _t, _a: ACCEPTED

    @property
    def around(self) -> Surroundings:
        return Surroundings(
            say=lambda message, **_: self.said.append((self.now, message)), clock=self.clock, pause=self.pause
        )

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds >= 0
        self.pauses += 1
        assert self.pauses < 50_000, "the wait spins"
        self.now += seconds

    def addresses(self, host: str, timeout_s: float) -> tuple[Any, ...]:
        self.lookups.append(self.now)
        self.now += min(self.lookup_takes_s, timeout_s)
        if self.lookup_takes_s > timeout_s:
            raise NotResolved(host, "the resolver has not answered", silent=True)
        answer = self.name(self.now)
        if isinstance(answer, str):
            raise NotResolved(host, answer)
        return answer

    def connect(self, addresses: Sequence[Any], ports: Sequence[int], timeout_s: float) -> ConnectOutcome:
        self.probes.append((self.now, tuple(addresses)))
        self.now += min(self.probe_takes_s, timeout_s)
        cause = self.port(self.now, tuple(addresses))
        return (
            ConnectOutcome(addresses[0], ports[0], cause)
            if cause == ACCEPTED
            else ConnectOutcome(None, None, cause)
        )

    def leader(self, deadline_s: float, size: int = 2) -> Any:
        resolver: Any = self
        name = LeaderName("sglang-0.sglang", resolver, self.around, "look at DNS")
        policy = WaitPolicy.for_group(deadline_s, size)
        return await_leader(name, (20000, 20001, 20013), policy, self.around, self.connect)


def test_a_leader_that_is_there_costs_one_lookup_and_no_word() -> None:
    world = World()
    assert world.leader(60).address == ONE
    assert len(world.lookups) == len(world.probes) == 1
    assert world.said == []


def test_not_resolvable_then_refused_then_there() -> None:
    world = World(
        name=lambda t: (ONE,) if t > 110 else "Name or service not known",
        port=lambda t, _a: ACCEPTED if t > 120 else REFUSED,
    )
    assert world.leader(600).address == ONE
    assert 120 < world.now < 121
    assert "does not resolve (Name or service not known)" in world.said[0][1]


def test_names_are_looked_up_at_most_every_two_seconds_and_used_fresh() -> None:
    world = World(port=lambda t, _a: ACCEPTED if t > 160 else REFUSED, probe_takes_s=0.05)
    world.leader(600)
    gaps = [later - earlier for earlier, later in zip(world.lookups, world.lookups[1:], strict=False)]
    assert min(gaps) >= 2.0 - 1e-9
    for at, _ in world.probes:
        assert min(at - asked for asked in world.lookups if asked <= at) <= 2.0


def test_a_name_that_moves_is_followed() -> None:
    world = World(
        name=lambda t: (TWO,) if t > 130 else (ONE,),
        port=lambda _t, addresses: ACCEPTED if addresses == (TWO,) else REFUSED,
    )
    assert world.leader(600).address == TWO
    assert world.now < 133


def test_status_at_once_and_then_every_thirty_seconds() -> None:
    world = World(port=lambda _t, _a: REFUSED)
    with pytest.raises(EntryError):
        world.leader(100)
    times = [at for at, _ in world.said]
    assert times[0] == 100.0
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(30 <= gap < 31 for gap in gaps)
    assert len(times) == 4


def test_the_timeout_names_cause_and_place() -> None:
    world = World(port=lambda _t, _a: TIMED_OUT)
    with pytest.raises(EntryError) as caught:
        world.leader(30)
    assert caught.value.exit_code == 124
    assert "10.0.0.1 does not answer on 20000, 20001, 20013" in caught.value.message
    assert "firewall" in caught.value.hint


def test_a_large_group_asks_more_slowly() -> None:
    assert WaitPolicy.for_group(60, 8).cap_s == 0.5
    assert WaitPolicy.for_group(60, 256).cap_s == 2.56
    assert WaitPolicy.for_group(60, 50) == WaitPolicy(60, 0.5, 0.1)


@pytest.mark.parametrize("size", [2, 50, 256, 10_000])
def test_pauses_grow_to_the_cap_and_half_of_each_is_chance(size: int) -> None:
    world = World(port=lambda _t, _a: REFUSED)
    with pytest.raises(EntryError):
        world.leader(3000, size)
    policy = WaitPolicy.for_group(3000, size)
    times = [at for at, _ in world.probes]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for tries, gap in enumerate(gaps[:-1]):  # the deadline cuts the last one short
        longest_s = min(policy.cap_s, policy.first_s * 2 ** min(tries, 20))
        assert longest_s / 2 - 1e-9 <= gap <= longest_s + 1e-9
    assert len({round(gap, 6) for gap in gaps}) > len(gaps) / 2


def test_a_name_that_does_not_resolve_is_asked_for_more_slowly_by_a_large_group() -> None:
    """10,000 workers that ask every 2 s put 40,000 queries a second to the cluster's DNS."""
    world = World(name=lambda _t: "Name or service not known")
    with pytest.raises(EntryError):
        world.leader(3000, 10_000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(world.lookups)]
    assert min(gaps[3:-1]) >= 50.0
    small = World(name=lambda _t: "Name or service not known")
    with pytest.raises(EntryError):
        small.leader(300, 50)
    assert {round(b - a, 6) for a, b in itertools.pairwise(small.lookups[:-1])} == {2.0}


@settings(max_examples=60, deadline=None)
@given(
    deadline_s=st.floats(0.5, 120),
    lookup_takes_s=st.floats(0, 20),
    probe_takes_s=st.floats(0, 5),
    resolves=st.booleans(),
    cause=st.sampled_from([REFUSED, TIMED_OUT]),
    size=st.integers(2, 400),
)
@example(deadline_s=12.03, lookup_takes_s=20, probe_takes_s=0, resolves=False, cause=REFUSED, size=2)
def test_the_deadline_is_never_passed(
    deadline_s: float, lookup_takes_s: float, probe_takes_s: float, resolves: bool, cause: str, size: int
) -> None:
    world = World(
        lookup_takes_s=lookup_takes_s,
        probe_takes_s=probe_takes_s,
        name=lambda _t: (ONE,) if resolves else "no",
        port=lambda _t, _a: cause,
    )
    started = world.now
    with pytest.raises(EntryError):
        world.leader(deadline_s, size)
    assert world.now - started <= deadline_s + 1e-6
    assert world.now - started >= deadline_s - 1e-6


def test_the_leaders_own_name_late_then_stale_then_right() -> None:
    def name(now: float) -> tuple[Any, ...] | str:
        return "not known" if now < 110 else (TWO,) if now < 130 else (ONE,)

    world = World(name=name)
    resolver: Any = world
    leader = LeaderName("sglang-0.sglang", resolver, world.around, "look at DNS")
    awaited = await_own_name(leader, lambda: [ONE], WaitPolicy(600), world.around)
    assert awaited.address == ONE
    assert 130 <= world.now < 133
    assert (
        any("which is not an address of this pod (10.0.0.1)" in text for _, text in world.said) or world.now < 131
    )


def test_an_own_name_that_stays_foreign() -> None:
    world = World(name=lambda _t: (TWO,))
    resolver: Any = world
    leader = LeaderName("sglang-0.sglang", resolver, world.around, "look at DNS")
    with pytest.raises(EntryError) as caught:
        await_own_name(leader, lambda: [ONE], WaitPolicy(10), world.around)
    assert caught.value.exit_code == 124
    assert "10.0.0.2" in caught.value.message


def test_an_address_that_others_can_call_comes_before_a_loopback_one() -> None:
    """Debian's /etc/hosts gives a host's own name 127.0.1.1."""
    own = ip_address("127.0.1.1")
    world = World(name=lambda _t: (own, ONE))
    resolver: Any = world
    leader = LeaderName("sglang-0.sglang", resolver, world.around, "look at DNS")
    assert await_own_name(leader, lambda: [ONE], WaitPolicy(10), world.around).address == ONE


def test_only_ipv6_is_reported() -> None:
    world = World(name=lambda _t: (SIX,))
    assert world.leader(10).only_ipv6
    world = World(name=lambda _t: (ONE, SIX))
    assert not world.leader(10).only_ipv6


def test_ports_that_stay_taken() -> None:
    world = World()
    with pytest.raises(EntryError) as caught:
        await_free_ports([("*", 20000, "rendezvous")], WaitPolicy(60), world.around, lambda _h, _p: False)
    assert caught.value.exit_code == 78
    assert "20000 (rendezvous)" in caught.value.message
    assert world.now == 160.0


@pytest.mark.parametrize("left_s", [0.0, 0.02])
def test_a_wait_without_time_names_none(left_s: float) -> None:
    """The leader was reached in the last moment: the ports are tried once."""
    world = World()
    with pytest.raises(EntryError) as caught:
        await_free_ports([("*", 20000, "x")], WaitPolicy(left_s), world.around, lambda _h, _p: False)
    assert caught.value.message == "ports that SGLang needs were not free: 20000 (x) in use"


def test_ports_that_come_free() -> None:
    world = World()
    await_free_ports([("*", 20000, "x")], WaitPolicy(60), world.around, lambda _h, _p: world.now > 103)
    assert 103 < world.now < 104


@pytest.mark.parametrize(
    ("port", "ports"), [(20000, (20000, 20001, 20013)), (65530, (65530, 65531)), (65535, (65535,))]
)
def test_signs_of_life(port: int, ports: tuple[int, ...]) -> None:
    assert life_ports(port) == ports


def test_other_errors_are_not_retried() -> None:
    def attempt(_within_s: float) -> None:
        raise RuntimeError("a defect")

    world = World()
    with pytest.raises(RuntimeError):
        wait_until("x", attempt, WaitPolicy(10), world.around)
    assert world.now == 100.0


def test_the_last_cause_is_raised() -> None:
    world = World()

    def attempt(_within_s: float) -> None:
        raise NotYet(f"at {world.now:.0f}", "look")

    with pytest.raises(NotYet, match="at 105"):
        wait_until("x", attempt, WaitPolicy(5), world.around)


def test_a_resolver_that_hangs_is_left_and_not_asked_twice() -> None:
    release, asked = threading.Event(), []

    def query(host: str) -> tuple[Any, ...]:
        asked.append(host)
        release.wait(20)
        return (ONE,)

    resolver = Resolver(query)
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(NotResolved) as caught:
            resolver.addresses("slow", 0.1)
        assert caught.value.silent
    assert time.monotonic() - started < 2
    assert asked == ["slow"]
    release.set()
    assert resolver.addresses("slow", 5) == (ONE,)
    assert asked == ["slow"]


def test_a_late_answer_that_is_stale_is_asked_again() -> None:
    now = [0.0]
    asked: list[str] = []

    def query(host: str) -> tuple[Any, ...]:
        asked.append(host)
        return (ONE,)

    resolver = Resolver(query, clock=lambda: now[0])
    try:
        resolver.addresses("x", 0.0)
    except NotResolved:
        pending = resolver._pending
        assert pending is not None
        pending.done.wait(5)
        now[0] += 2.5
        resolver.addresses("x", 5)
        assert asked == ["x", "x"]


def test_a_literal_needs_no_resolver() -> None:
    def query(host: str) -> tuple[Any, ...]:
        raise AssertionError(host)

    assert Resolver(query).addresses("fd00::1", 0.0) == (SIX,)


def test_the_last_moments_before_the_deadline_are_slept_through() -> None:
    """A cause that wants to be asked again at once must not be, when no time is left to learn anything."""
    world = World()
    tries = []

    def attempt(within_s: float) -> None:
        tries.append(within_s)
        assert len(tries) < 10
        world.now += 0.97
        raise NotYet("the resolver was silent", "look at DNS", 0.0)

    with pytest.raises(NotYet):
        wait_until("something", attempt, WaitPolicy(1.0), world.around)
    assert len(tries) == 1
    assert world.now == pytest.approx(101.0)


def test_a_status_line_says_cause_time_and_the_next_try() -> None:
    fields: list[dict[str, object]] = []
    world = World()

    def say(message: str, **more: object) -> None:
        world.said.append((world.now, message))
        fields.append(more)

    def attempt(within_s: float) -> None:
        raise NotYet("10.0.0.1 refuses connections", "kubectl logs", 2.0)

    around = Surroundings(say=say, clock=world.clock, pause=world.pause)
    with pytest.raises(NotYet):
        wait_until("the leader", attempt, WaitPolicy(70.0), around)
    assert world.said[0][1] == (
        "waiting for the leader: 10.0.0.1 refuses connections (0 of 70 s, next try in 2.0 s); kubectl logs"
    )
    assert [line for _, line in world.said[1:]] == [
        "still waiting for the leader: 10.0.0.1 refuses connections (30 of 70 s)",
        "still waiting for the leader: 10.0.0.1 refuses connections (60 of 70 s)",
    ]
    assert [one["elapsed_s"] for one in fields] == [0.0, 30.0, 60.0]
    assert fields[0] == {
        "waiting_for": "the leader",
        "cause": "10.0.0.1 refuses connections",
        "elapsed_s": 0.0,
        "deadline_s": 70.0,
        "next_try_s": 2.0,
    }


def test_a_hint_comes_again_only_with_another_cause() -> None:
    world = World(
        name=lambda t: (ONE,) if t > 150 else "Name or service not known",
        port=lambda _t, _a: TIMED_OUT if world.now > 210 else REFUSED,
    )
    with pytest.raises(EntryError) as caught:
        world.leader(200)
    hints = [line.partition("s); ")[2] for _, line in world.said]
    lines = [line for _, line in world.said]
    assert lines[0].startswith(
        "waiting for the leader sglang-0.sglang: does not resolve (Name or service not known) (0"
    )
    assert lines[1] == "still waiting for the leader: does not resolve (Name or service not known) (30 of 200 s)"
    assert lines[2].startswith(
        "still waiting for the leader: 10.0.0.1 refuses connections on 20000, 20001, 20013 (60"
    )
    assert ["look at DNS" in hints[0], hints[1], "kubectl logs sglang-0" in hints[2], hints[3]] == [
        True,
        "",
        True,
        "",
    ]
    assert "NetworkPolicy" in hints[4]
    assert not any("sglang-0.sglang" in line for line in lines[1:])
    assert caught.value.message == (
        "the leader sglang-0.sglang was not reachable within 200 s: 10.0.0.1 does not answer on 20000, 20001, 20013"
    )


def test_a_leader_given_as_an_address_is_named_once() -> None:
    world = World(port=lambda _t, _a: REFUSED)
    resolver: Any = world
    name = LeaderName("10.0.0.1", resolver, world.around, "look at DNS")
    with pytest.raises(EntryError):
        await_leader(name, (20000,), WaitPolicy(10), world.around, world.connect)
    assert world.said[0][1].startswith(
        "waiting for the leader 10.0.0.1: refuses connections on 20000 (0 of 10 s, next"
    )


def test_a_first_try_that_succeeds_loads_no_tenacity() -> None:
    code = (
        "import sys; from sglang_roce_entry.group.wait import *\n"
        "wait_until('x', lambda within_s: 1, WaitPolicy(1), Surroundings(print)); print('tenacity' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
