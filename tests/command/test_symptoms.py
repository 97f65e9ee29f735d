"""Each row of the README's table by symptom, produced by the command."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.process.command import STANDIN_SOURCE, python_path
from tests.readme import README
from tests.symptoms import SYMPTOMS, Symptom, table

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


def test_the_table_is_the_readmes() -> None:
    assert table() in README.read_text(encoding="utf-8")
