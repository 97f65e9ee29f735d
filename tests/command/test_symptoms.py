"""Each row of the table by symptom in k8s/TROUBLESHOOTING.md, produced by the command; and that page itself."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.process.command import STANDIN_SOURCE, python_path
from tests.source_codes import exit_codes, problem_codes, reason_codes
from tests.symptoms import SYMPTOMS, Symptom
from tests.troubleshooting import DOCUMENT, written

if TYPE_CHECKING:
    from tests.command.conftest import Run


def _printed(run: Run, symptom: Symptom) -> list[tuple[str, str]]:
    """Return what is wrong and what to do, line by line."""
    if symptom.node is not None:
        ran = run("--dry-run=json", *symptom.argv, node=symptom.node(), environ=symptom.environ)
        return [(problem["message"], problem["hint"]) for problem in ran.document["problems"]]
    environ = {"PYTHONPATH": python_path(STANDIN_SOURCE), **symptom.environ}
    with symptom.around() as port:
        ran = run("--dist-init", port, *symptom.argv, environ=environ)
    assert ran.code in (78, 124), ran.err
    lines = ran.err.splitlines()
    return [
        (line, below) for line, below in itertools.pairwise(lines) if " error: " in line and "  fix: " in below
    ]


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda one: one.says[:40])
def test_the_command_says_it(run: Run, symptom: Symptom) -> None:
    said = _printed(run, symptom)
    matching = [change for message, change in said if symptom.says in message]
    assert matching, said
    assert any(symptom.change in change for change in matching), matching


def test_the_page_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == written(), "run: python -m tests.troubleshooting"


def test_each_code_has_a_heading_of_its_own() -> None:
    headings = [line for line in written().splitlines() if line.startswith("### ")]
    assert len(set(headings)) == len(headings)
    assert {f"### {code}" for code in problem_codes() | reason_codes()} <= set(headings)
    assert {f"### Exit code {code}" for code in exit_codes()} <= set(headings)
