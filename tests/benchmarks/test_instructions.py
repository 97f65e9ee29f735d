"""A start stays cheap: a careless import is noticed here, on any machine, however busy."""

from __future__ import annotations

from tests.benchmarks import probe
from tests.benchmarks.instructions import BUDGET, measure, table
from tests.layers import skip_or_fail

#: Instructions of a leader's start with 8 HCAs of 256 slots, in those of `python3 -c pass`: 13.7 with Python
#: 3.10, 14.4 with 3.11, 15.0 with 3.12, 12.3 with 3.13; and a little more, below the budget.
CEILING = 15.8


def test_a_start_takes_no_more_instructions() -> None:
    result = measure(short=True)
    if "skipped" in result:
        skip_or_fail("instructions", result["skipped"])
    print(table(result))
    (row,) = result["rows"]
    assert row["starts"] <= min(CEILING, BUDGET), (
        f"a start takes {row['start']:,} instructions, {row['starts']:.2f} times a bare interpreter's: what does it "
        "load that it does not need? python -X importtime -m sglang_roce_entry ... shows it"
    )


def test_a_probe_takes_no_more_instructions() -> None:
    """It runs every few seconds as long as the pod lives."""
    result = probe.measure(short=True)
    if "skipped" in result:
        skip_or_fail("instructions", result["skipped"])
    print(probe.table(result))
    starts = {row["way"]: row["starts"] for row in result["rows"]}
    assert max(starts["--probe readiness"], starts["--probe liveness"]) <= probe.CEILING, starts
