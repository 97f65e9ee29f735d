"""Each code that the package can report is explained, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.codes import BY_CODE, EXITS, GROUPS, REASONS
from sglang_roce_entry.problems import EXIT_CODES
from tests.source_codes import codes_of, exit_codes, problem_codes, reason_codes

if TYPE_CHECKING:
    from tests.command.conftest import Run


def test_each_code_has_an_entry_and_each_entry_a_code() -> None:
    assert set(BY_CODE) == problem_codes() | reason_codes() | exit_codes()


def test_no_code_has_two_entries() -> None:
    assert sum(len(group.entries) for group in GROUPS) == len(BY_CODE)


def test_exit_codes_and_reasons_stand_in_sections_of_their_own() -> None:
    assert [entry.code for entry in EXITS.entries] == "/".join(code for code, _ in EXIT_CODES).split("/")
    assert {entry.code for entry in EXITS.entries} == exit_codes()
    assert {entry.code for entry in REASONS.entries} == reason_codes() - problem_codes()


def test_each_problem_and_reason_has_a_remedy() -> None:
    without = [entry.code for group in GROUPS if group is not EXITS for entry in group.entries if not entry.do]
    assert without == []


def test_codes_are_found_in_any_form_of_writing() -> None:
    source = """
def _wrong(message, code):
    return rdma_value(code, message, "")
def f(given):
    yield _wrong("x", "ONE_WRAPPED")
    yield problems.error("TWO_QUALIFIED" if given else "THREE_CHOSEN", "", "", 69)
    yield Problem("warning", code="FOUR_NAMED", message="")
    raise EntryError(given.code, "", "", 1)
class Odd(EntryError):
    def __init__(self, message):
        super().__init__("FIVE_DERIVED", message, "", 2)
"""
    assert codes_of(source) == (
        {"ONE_WRAPPED", "TWO_QUALIFIED", "THREE_CHOSEN", "FOUR_NAMED", "FIVE_DERIVED"}, [],
    )  # fmt: skip
    assert codes_of("error(name, '', '', 1)")[1] == ["line 1: error(name, '', '', 1)"]


@pytest.mark.parametrize(
    "argv", [("--explain", "GID_INDEX_WRONG"), ("--explain=GID_INDEX_WRONG",), ("--explain", "[gid_index_wrong]")]
)
def test_one_code(run: Run, argv: tuple[str, ...]) -> None:
    """As it is copied from a line of the log."""
    ran = run(*argv)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "GID_INDEX_WRONG"
    assert len(lines) < 12
    for label, words in (("alone: ", "status=12"), ("see: ", "show_gids"), ("do: ", "Remove the variable")):
        assert any(line.startswith(f"  {label}") for line in lines)
        assert words in ran.out


def test_all_of_them_by_subject(run: Run) -> None:
    ran = run("--explain")
    lines = ran.out.splitlines()
    assert set(BY_CODE) <= set(lines)
    assert max(map(len, lines)) <= 100
    assert lines[0] == "RDMA ON THIS NODE"
    assert lines.index("EXIT CODES") > lines.index("WHY A PORT IS LEFT OUT")


def test_an_unknown_code_names_the_nearest(run: Run) -> None:
    ran = run("--explain", "NO_USABLE_HCAS")
    assert (ran.code, ran.out) == (2, "")
    assert "'NO_USABLE_HCAS' is not a code" in ran.err
    assert "did you mean NO_USABLE_HCA?" in ran.err
    assert "[USAGE]" in ran.err


@pytest.mark.parametrize("code", ["3", "bogus"])
def test_a_word_like_no_code_is_told_where_all_of_them_are(run: Run, code: str) -> None:
    ran = run("--explain", code)
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean" not in ran.err
    assert "fix: all codes: sglang-roce-entry --explain\n" in ran.err
