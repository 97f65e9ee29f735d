"""The README says what the program says."""

from __future__ import annotations

import re

from sglang_roce_entry.fabric.constraints import Reason
from tests.readme import README, written


def test_generated_parts_are_up_to_date() -> None:
    assert README.read_text(encoding="utf-8") == written(), "run: python -m tests.readme"


def test_every_reason_code_is_listed() -> None:
    text = README.read_text(encoding="utf-8")
    codes = {value for name, value in vars(Reason).items() if not name.startswith("_")}
    assert codes <= set(re.findall(r"`([A-Z_]+)`", text))
