"""The one rule of precedence for a variable, and what every library's file has to offer."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given as given_by
from hypothesis import strategies as st

from sglang_roce_entry.fabric import consumers
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.fabric.wishes import DEFAULT, DISCOVERED, Given, Wish, found, shown, unset
from sglang_roce_entry.plan.merge import Variable, in_effect, merge
from tests.healthy import healthy
from tests.planning import plan_of

POD = Given("NCCL_X", "pod", "user", "the pod's environment")
FILE = Given("NCCL_X", "file", "file", "/etc/nccl.conf")
SHELL = Given("NCCL_X", "shell", "user", "set in this shell")
FLAG = Wish("NCCL_X", "flag", "user", "--x", by_flag=True)
FOUND = found("NCCL_X", "found", "it is there")


@pytest.mark.parametrize(
    ("given", "wish", "expected"),
    [
        (POD, FLAG, ("flag", "user", "--x (overrides 'pod' of the pod's environment)")),
        (SHELL, FLAG, ("flag", "user", "--x (overrides 'shell' of this shell)")),
        (Given("NCCL_X", "flag", "user", "x"), FLAG, ("flag", "user", "--x")),
        (None, FLAG, ("flag", "user", "--x")),
        (POD, FOUND, ("pod", "user", "set in the pod's environment")),
        (SHELL, FOUND, ("shell", "user", "set in this shell")),
        (FILE, FOUND, ("file", "file", "set in /etc/nccl.conf")),
        (FILE, unset("NCCL_X", "no port"), ("file", "file", "set in /etc/nccl.conf")),
        (POD, shown("NCCL_X"), ("pod", "user", "set in the pod's environment")),
        (None, FOUND, ("found", DISCOVERED, "it is there")),
        (None, Wish("NCCL_X", "IB", DEFAULT, "required"), ("IB", DEFAULT, "required")),
        (None, unset("NCCL_X", "no port"), (None, "withheld", "no port")),
        (None, shown("NCCL_X"), None),
    ],
)
def test_flag_beats_what_is_given_beats_the_wish(
    given: Given | None, wish: Wish, expected: tuple[str | None, str, str] | None
) -> None:
    merged = merge({"NCCL_X": given} if given else {}, [wish])
    assert merged == ((Variable("NCCL_X", *expected),) if expected else ())


def test_what_nobody_asks_for_is_not_shown() -> None:
    assert merge({"NCCL_X": POD}, [found("NCCL_Y", "1", "why")]) == (Variable("NCCL_Y", "1", DISCOVERED, "why"),)


def test_a_second_wish_for_a_name_is_a_defect() -> None:
    with pytest.raises(ValueError, match="two wishes for NCCL_X"):
        merge({}, [FOUND, shown("NCCL_X")])


@given_by(st.lists(st.tuples(st.sampled_from("ABC"), st.booleans(), st.booleans()), unique_by=lambda one: one[0]))
def test_in_effect_is_what_no_flag_has_overridden(rows: list[tuple[str, bool, bool]]) -> None:
    given = {name: Given(name, "pod", "user", "the pod") for name, is_given, _ in rows if is_given}
    wishes = [Wish(name, "ours", DISCOVERED, "why", by_flag=by_flag) for name, _, by_flag in rows]
    left = in_effect(given, merge(given, wishes))
    assert set(left) == {name for name, is_given, by_flag in rows if is_given and not by_flag}
    assert all(left[name] is given[name] for name in left)


@pytest.mark.parametrize("library", consumers.CONSUMERS, ids=lambda library: library.__name__.rpartition(".")[2])
def test_a_library_wishes_only_for_what_it_reads(library: ModuleType) -> None:
    plan = plan_of(
        healthy(), "--moe-a2a-backend", "deepep", "--disaggregation-mode", "prefill", "--model-path", "/m"
    )
    use = Use(mooncake=True, nixl=True, nvshmem=True, kv_backend="nixl")
    names = [wish.name for wish in library.wishes(plan.choice, use)]
    assert names
    assert set(names) <= set(library.READS)
    assert library.check({}, plan.choice, use) is not None
    assert library.__doc__
