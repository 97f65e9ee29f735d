"""Where our options end and SGLang's begin."""

from __future__ import annotations

import pytest

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.invocation import BARE_WORD, LAUNCH
from sglang_roce_entry.problems import UsageError


@pytest.mark.parametrize(
    ("argv", "flags", "rest"),
    [
        (("--model-path", "/m"), {}, ("--model-path", "/m")),
        (("--rdma", "off", "--model-path", "/m"), {"rdma": "off"}, ("--model-path", "/m")),
        (("--rdma=off", "--strict", "--tp-size", "8"), {"rdma": "off", "strict": "yes"}, ("--tp-size", "8")),
        (("--strict=no", "--x"), {"strict": "no"}, ("--x",)),
        (("--", "--rdma-thing"), {}, ("--rdma-thing",)),
        (("--hca", "^=mlx5_0", "--", "-x"), {"hca": "^=mlx5_0"}, ("-x",)),
        (("--tp", "16", "--model-path", "/m"), {}, ("--tp", "16", "--model-path", "/m")),
        (("--tp", "off", "--model-path", "/m"), {"tp": "off"}, ("--model-path", "/m")),
        (("--dist-init", "21000", "--m", "x"), {"dist_init": "21000"}, ("--m", "x")),
        (("--dist-init", "h:21000"), {}, ("--dist-init", "h:21000")),
        (("--model-path", "/m", "--help"), {}, ("--model-path", "/m", "--help")),
        (("--wait-deadline", "30m", "--m"), {"wait_deadline": "30m"}, ("--m",)),
    ],
)
def test_launch_form(argv: tuple[str, ...], flags: dict[str, str], rest: tuple[str, ...]) -> None:
    invocation = parse_command_line(argv)
    assert (dict(invocation.flags), invocation.rest, invocation.form) == (flags, rest, LAUNCH)
    assert invocation.mode is None


@pytest.mark.parametrize(
    ("argv", "mode", "value", "rest"),
    [
        (("--dry-run",), "dry-run", "text", ()),
        (("--dry-run=json", "--m", "x"), "dry-run", "json", ("--m", "x")),
        (("--print-env",), "print-env", "shell", ()),
        (("--print-env=json",), "print-env", "json", ()),
        (("--snapshot", "h20-roce", "--dry-run"), "dry-run", "text", ()),
        (("--save-snapshot", "-"), "save-snapshot", "-", ()),
        (("--save-snapshot=/tmp/x"), "save-snapshot", "/tmp/x", ()),
        (("-h",), "help", "", ()),
        (("--help",), "help", "", ()),
        (("--version",), "version", "", ()),
        (("--dry-run", "bash", "-c", "x"), "dry-run", "text", ("bash", "-c", "x")),
    ],
)
def test_modes(argv: tuple[str, ...] | str, mode: str, value: str, rest: tuple[str, ...]) -> None:
    invocation = parse_command_line((argv,) if isinstance(argv, str) else argv)
    assert (invocation.mode, invocation.mode_value, invocation.rest) == (mode, value, rest)


def test_bare_word_keeps_its_own_arguments() -> None:
    invocation = parse_command_line(("--rdma", "off", "bash", "-c", "x --dry-run", "--hca"))
    assert invocation.form == BARE_WORD
    assert invocation.rest == ("bash", "-c", "x --dry-run", "--hca")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "no SGLang arguments"),
        (("--",), "no SGLang arguments"),
        (("--rdma", "off"), "no SGLang arguments"),
        (("--rdma", "maybe", "--m"), "'maybe' is not one of"),
        (("--rdma",), "has no value"),
        (("--hca", "--dry-run"), "has no value"),
        (("--dry-run=xml",), "is not a format"),
        (("--version=1",), "takes no value"),
        (("--dry-run", "--print-env"), "two modes"),
        (("--snapshot", "h20-roce", "--m"), "cannot be launched on"),
        (("--model-path", "/m", "--hca", "x"), "--hca is among"),
        (("--", "--model-path", "/m", "--dry-run"), "--dry-run is among"),
        (("--model-path", "/m", "--tp", "off"), "--tp is among"),
        (("--save-meeting", "f", "--dry-run"), "--save-meeting belongs to --rehearse"),
        (("--meeting-file", "f", "--model-path", "/m"), "--meeting-file belongs to --rehearse"),
        (("--meeting-file", "f", "--rehearse", "--model-path", "/m"), "what follows is of a meeting"),
        (("--meeting-file", "f", "--save-meeting", "g", "--rehearse"), "--save-meeting is of a meeting"),
        (("--save-meeting", "-", "--rehearse"), "--save-meeting needs a file"),
        (("--rehearse", "--save-meeting"), "has no value"),
        (("--dryrun", "--model-path", "/m"), "--dryrun is not an option"),
        (("--dry_run", "--m"), "--dry_run is not an option"),
        (("--print-envs",), "--print-envs is not an option"),
        (("--hca-waits", "3"), "--hca-waits is not an option"),
        (("-x",), "-x is not an option"),
        (("--linger", "soon", "--m"), "not a duration"),
        (("--gpus", "0", "--m"), "number of GPUs"),
        (("--dist-init", "70000", "--m"), "out of range"),
        (("--subnets", "10.0.0.1/8", "--m"), "--subnets '10.0.0.1/8' is not a network (10.0.0.0/8 is)"),
        (("--subnets", "10.0.0.0/8,10.1.0.0/99", "--m"), "has '10.1.0.0/99', which is not a network"),
        (("--interface", "=eth0", "--m"), "is not an interface name"),
        (("--hca", "a b", "--m"), "spaces"),
    ],
)
def test_usage_errors(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_command_line(argv)
    assert words in caught.value.message
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("--rdam", "--check"), "put it before --rdam"),
        (("--api-key=secret", "--dry-run"), "put it before --api-key"),
        (("--", "--dry-run"), "put it before the first argument of SGLang"),
    ],
)
def test_an_option_that_comes_too_late_is_told_its_place(argv: tuple[str, ...], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_command_line(argv)
    assert caught.value.hint == hint


def test_no_option_may_be_abbreviated() -> None:
    invocation = parse_command_line(("--stri", "x"))  # SGLang's --strip-thinking-cache
    assert invocation.rest == ("--stri", "x")
