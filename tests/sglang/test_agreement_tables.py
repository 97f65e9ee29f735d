"""Which arguments a group must share, held against the newest release's own parser: what it adds is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.server.compared.agreement import MAY_DIFFER, MUST_AGREE
from sglang_roce_entry.server.compared.parser import known_options, read_options
from tests.sglang.releases import RELEASES

if TYPE_CHECKING:
    from tests.sglang.judge import Judge

pytestmark = [
    pytest.mark.sglang,
    pytest.mark.parametrize("judge", RELEASES[-1:], indirect=True, ids=lambda release: release.version),
]

TYPES = {"int": "i", "float": "d", "human_readable_int": "h"}
JSON = {"loads", "json_list_type", "parse_cuda_graph_config_arg"}
FLAGS = {"_StoreTrueAction", "DeprecatedStoreTrueAction"}
#: Of a release before the newest.
GONE = {"--enable-deepep-moe"}


def _real(option: dict[str, Any]) -> tuple[tuple[str, ...], str, bool, str]:
    names = [name.removeprefix("--") for name in option["spellings"] if name.startswith("--")]
    several = option["nargs"] in ("+", "*", "?")
    default = option["default"]
    shown = "" if default is None or default is False else "true" if default is True else str(default)
    if option["action"] == "BooleanOptionalAction":
        return tuple(name for name in names if not name.startswith("no-")), "b", several, shown
    kind = "f" if option["action"] in FLAGS else "j" if option["type"] in JSON else TYPES.get(option["type"], "s")
    return tuple(names), kind, several, shown


def test_the_list_is_the_parser_s(judge: Judge) -> None:
    """With spellings, kinds, defaults. A new release: classify what is new in ``server/compared/agreement.py``."""
    real = {_real(option) for option in judge.options() if option["action"] != "_HelpAction"}
    ours = {(one.spellings, one.kind, one.several, one.default) for one in known_options().values()}
    assert sorted(ours - real) == []
    assert sorted(real - ours) == []


def test_the_tables_name_what_there_is(judge: Judge) -> None:
    first = {option["spellings"][0] for option in judge.options()}
    assert sorted(MUST_AGREE - first - GONE) == []
    assert sorted(MAY_DIFFER - first) == []
    assert len(first) > 500


PAIRS = [
    ("--tp 16", "--tensor-parallel-size=16"),
    ("--tp 16", "--tp 8"),
    ("--mem-fraction-static 0.80", "--mem-frac .8"),
    ("--context-length 32k", "--context-length 32000"),
    ("--context-length 32Ki", "--context-length 32000"),
    ("--dtype auto", ""),
    ("--dtype half", ""),
    ("--schedule-conservativeness 1", ""),
    ("--cuda-graph-bs-decode 1 02 4", "--cuda-graph-bs-decode 1 2 4"),
    ("--cuda-graph-bs-decode 1 2", "--cuda-graph-bs-decode 2 1"),
    ('--limit-mm-data-per-request {"image":1,"video":2}', '--limit-mm-data-per-request {"video":2,"image":1}'),
    ("--dllm-fdfo", ""),
    ("--no-dllm-fdfo", ""),
    ("--dtype half --dtype auto", ""),
    ("--enable-hicache", "--enable-hierarchical-cache"),
    ("--speculative-draft-model /d", "--speculative-draft-model-path /d"),
    ("--trust-remote", "--trust-remote-code"),
    ("--random-seed 07", "--random-seed 7"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_spellings_are_equal_where_they_are_to_the_parser(judge: Judge, one: str, other: str) -> None:
    first, second = (text.split() for text in (one, other))
    assert (read_options(first) == read_options(second)) == (judge.values(first) == judge.values(second))


def test_every_option_is_told_from_its_absence(judge: Judge) -> None:
    """Whatever value the parser takes that is not the default."""
    samples = {"i": "77", "d": "0.77", "h": "77", "j": '[{"a": 77}]', "s": "seventy-seven"}
    unlike = []
    for option in {one.name: one for one in known_options().values()}.values():
        words = [f"--{option.name}", *([] if option.kind in ("f", "b") else [samples[option.kind]])]
        try:
            given = judge.values(words)
        except KeyError:
            continue  # refused: choices, or another form of JSON
        if bool(given) != bool(read_options(words)):
            unlike.append((words, given))
    assert unlike == []
