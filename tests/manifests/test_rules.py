"""Every rule holds for every variant, and says its sentence about the manifest that is broken for it."""

from __future__ import annotations

import ast
import inspect
import re
from typing import TYPE_CHECKING, cast

import pytest

from tests.manifests.broken import CASES
from tests.manifests.manifest_set import K8S, Manifest, built, plain_files
from tests.manifests.rules import RULES
from tests.manifests.rules.silent import longest_group_name

if TYPE_CHECKING:
    from types import GeneratorType

    from tests.manifests.broken.reach import Case
    from tests.manifests.rules.walk import Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_variant_keeps_the_rule(rule: Rule, manifests: list[Manifest]) -> None:
    assert list(rule(manifests)) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule.__name__}-{case.broken.__name__}")
def test_the_rule_catches_its_broken_manifest(case: Case) -> None:
    manifests = built(K8S / case.variant)
    assert list(case.rule(manifests)) == []
    case.broken(manifests)
    said = list(case.rule(manifests))
    assert [sentence for sentence in said if re.search(case.says, sentence)] != [], said


def test_the_longest_name_that_the_manifests_state() -> None:
    """63 characters of a label, less the group's number, its dashes and ten digits of a hash."""
    longest = [longest_group_name(groups) for groups in (0, 1, 10, 11, 100, 101)]
    assert longest == [50, 50, 50, 49, 49, 48]
    stated = [
        (path, *map(int, numbers))
        for path in (*plain_files(), K8S / "README.md")
        for numbers in re.findall(r"[Aa]t most (\d+) characters, (\d+) from eleven groups on", path.read_text())
    ]
    assert {path for path, *_numbers in stated} == {
        *(path for path in plain_files() if "kind: LeaderWorkerSet" in path.read_text()),
        K8S / "README.md",
    }
    assert {(most, many) for _path, most, many in stated} == {(longest_group_name(), longest_group_name(11))}


def _yields(rule: Rule) -> set[int]:
    """Return the lines of the rule's sentences, counted from its own first line."""
    tree = ast.parse(inspect.getsource(rule))
    return {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Yield)}


def test_every_sentence_of_every_rule_has_a_broken_manifest() -> None:
    """A check that no broken manifest ever made speak could be one that cannot fail."""
    reached: dict[str, set[int]] = {rule.__name__: set() for rule in RULES}
    for case in CASES:
        manifests = built(K8S / case.variant)
        case.broken(manifests)
        first = inspect.getsourcelines(case.rule)[1]
        running = cast("GeneratorType[str, None, None]", case.rule(manifests))
        for _sentence in running:
            frame = running.gi_frame
            assert frame is not None  # it is suspended at a yield
            reached[case.rule.__name__].add(frame.f_lineno - first + 1)
    assert reached == {rule.__name__: _yields(rule) for rule in RULES}
    assert len(reached) == len(RULES)
