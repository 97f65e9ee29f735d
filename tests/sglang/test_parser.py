"""What SGLang makes of a user's arguments is what our reader makes of them, release by release."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, find, given, settings

from sglang_roce_entry.server.arguments import UserArguments, read_arguments
from sglang_roce_entry.server.spellings import OPTIONS, find_option, is_ignored_config
from tests.sglang.agreement import disagreements
from tests.sglang.command_lines import AMBIGUOUS, CommandLine, Dialect, command_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sglang.judge import Judge

pytestmark = pytest.mark.sglang

CASES = 2000
GENERATED: dict[str, Any] = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
#: 0.5.15 has this option by its other spelling alone.
NEWER = ("--smg-http-sidecar-port",)
OWN = {spelling: option for option in OPTIONS for spelling, _ in option.spellings}


def dialect_of(judge: Judge) -> Dialect:
    """Return what a release has of the table."""
    return Dialect.of(judge.spellings(), boolean_words=judge.release.boolean_words)


def test_every_beginning_of_every_option(judge: Judge) -> None:
    """A token that stands for one of our options is found, one that stands for another is not."""
    spellings = judge.spellings()
    assert len(spellings) > 100
    tokens = sorted({name[:length] for name in spellings for length in range(3, len(name) + 1)})
    wrong = []
    for token, meant in zip(tokens, judge.means(tokens), strict=True):
        ours = find_option(token)
        if token in AMBIGUOUS:
            assert ours is None, token
            continue
        if meant is not None and ours is not OWN.get(meant):
            wrong.append(f"{token} is {meant} in {judge.release.version}, we take it for {ours and ours.name}")
        if meant == "--config" and is_ignored_config(f"{token}=x") is False:
            wrong.append(f"{token}=x is accepted and not read, and we do not say so")
    assert wrong == []


def test_every_option_of_ours_is_the_kind_that_we_think(judge: Judge) -> None:
    """A flag takes no value, everything else takes one; what a release has at all it has in both spellings."""
    spellings = judge.spellings()
    known = [option for option in OPTIONS if any(spelling in spellings for spelling, _ in option.spellings)]
    assert {"tp_size", "nnodes", "node_rank", "dist_init_addr", "host", "port"} <= {o.dest for o in known}
    for option in known:
        kinds = {spellings[name] for name, _ in option.spellings if name in spellings or name not in NEWER}
        assert kinds == ({0} if option.flag else {None}), option.name


#: Ports of others that SGLang calls, or that an option elsewhere must open.
NOT_BOUND = {
    "--remote-instance-weight-loader-seed-instance-service-port",
    "--remote-instance-weight-loader-send-weights-group-ports",
    "--enable-cache-report",
}


def test_every_port_of_the_parser_is_known(judge: Judge) -> None:
    """A release with a new port option, or a new size, is noticed here: `server/ports.py` must say who binds it."""
    found = {name for name in judge.spellings() if re.search(r"-ports?$", name)}
    assert found - set(OWN) - NOT_BOUND == set()
    widths = {name for name in judge.spellings() if name.endswith("dp-size") or "-join-mode" in name}
    # Mixture-of-experts data parallelism moves no port: PortArgs.init_new does not read it.
    assert widths - set(OWN) == {"--moe-dp-size"} & widths


def test_generated_command_lines(judge: Judge) -> None:
    """Every option that either finds is found by both, with one value; no secret is shown."""
    verdicts = {"accepted": 0, "refused": 0}

    @settings(max_examples=CASES, **GENERATED)
    @given(command_lines(dialect_of(judge)))
    def agree(line: CommandLine) -> None:
        real = judge.parse(line.argv, line.files)
        verdicts["refused" if "refused" in real else "accepted"] += 1
        assert disagreements(line, real) == []

    agree()
    # A judge that refuses everything would agree with everybody.
    assert verdicts["accepted"] > CASES / 4, verdicts


def exact_spellings_only(argv: Sequence[str], read_file: Callable[[str], str]) -> UserArguments:
    """Return what a reader finds that does not know argparse's abbreviations."""
    read = read_arguments(argv, read_file)
    # `where` is "--tp", or "tp in serve.yaml".
    names = {dest: found.where.removeprefix("--").partition(" ")[0] for dest, found in read.values.items()}
    exact = {dest: found for dest, found in read.values.items() if f"--{names[dest]}" in OWN}
    return UserArguments(read.argv, exact, read.problems)


def first_one_wins(argv: Sequence[str], read_file: Callable[[str], str]) -> UserArguments:
    """Return what a reader finds that takes the first of repeated options."""
    options: list[list[str]] = []
    for token in argv:
        if token.startswith("--") or not options:
            options.append([])
        options[-1].append(token)
    return read_arguments([token for option in reversed(options) for token in option], read_file)


def without_the_file(argv: Sequence[str], _: Callable[[str], str]) -> UserArguments:
    """Return what a reader finds that looks at the command line alone."""
    return read_arguments(argv)


@pytest.mark.parametrize("reader", [exact_spellings_only, first_one_wins, without_the_file])
def test_a_wrong_reader_is_noticed(judge: Judge, reader: Callable[..., UserArguments]) -> None:
    """Among the generated lines is one that each of these reads in another way than SGLang."""
    if reader is without_the_file and "--config" not in judge.spellings():
        return
    line = find(
        command_lines(dialect_of(judge)),
        lambda line: bool(disagreements(line, judge.parse(line.argv, line.files), reader)),
        settings=settings(max_examples=CASES, **GENERATED),
    )
    assert disagreements(line, judge.parse(line.argv, line.files)) == []
