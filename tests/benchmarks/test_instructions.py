"""A start stays cheap: a careless import is noticed here, on any machine, however busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.instructions import ending_at_exec, instructions, missing_valgrind
from tests.benchmarks.rails import ARGUMENTS, Leader, environment, standin
from tests.layers import skip_or_fail
from tests.process.command import CHECKOUT, entry_command, entry_interpreter
from tests.process.nodes import missing_requirement

if TYPE_CHECKING:
    from pathlib import Path

#: Instructions of a leader's start with 8 HCAs of 256 slots, in those of `python3 -c pass`: 6.3 with
#: Python 3.10 to 3.12, 5.5 with 3.13; and a tenth more.
CEILING = 6.9


def test_a_start_takes_no_more_instructions(tmp_path: Path) -> None:
    missing = missing_valgrind() or missing_requirement()
    if missing:
        skip_or_fail("instructions", missing)
    leader = Leader(tmp_path / "leader", hcas=8, slots=256)
    # Without an installed command the checkout is run, and is looked for first.
    checkout = [CHECKOUT] if len(entry_command()) > 1 else []
    around = environment(ending_at_exec(tmp_path), standin(tmp_path), *checkout)
    bare = instructions(leader, [entry_interpreter(), "-c", "pass"], around, becomes=False)
    ours = instructions(leader, [*entry_command(), *ARGUMENTS], around, becomes=True)
    print(f"{ours:,} instructions, {ours / bare:.2f} bare interpreters of {bare:,}")
    assert ours < CEILING * bare, (
        f"a start takes {ours:,} instructions, {ours / bare:.2f} times a bare interpreter's: what does it load that "
        "it does not need? python -X importtime -m sglang_roce_entry ... shows it"
    )
