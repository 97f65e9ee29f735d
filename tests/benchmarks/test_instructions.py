"""A start stays cheap: a careless import is noticed here, on any machine, however busy."""

from __future__ import annotations

from tests.benchmarks import probe
from tests.benchmarks.instructions import measure, table
from tests.layers import skip_or_fail

#: Instructions of a leader's start with 8 HCAs of 256 slots, in those of `python3 -c pass`: 15.2 with Python 3.11,
#: 15.9 with 3.12, less with others; and half a start more, since an installed command and a checkout differ a little.
CEILING = 16.4


def test_a_start_takes_no_more_instructions() -> None:
    result = measure(short=True)
    if "skipped" in result:
        skip_or_fail("instructions", result["skipped"])
    print(table(result))
    (row,) = result["rows"]
    assert row["starts"] <= CEILING, (
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
