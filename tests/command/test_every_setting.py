"""Every setting takes what the manual prints behind it, in each place where it can be written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.command.manual import help_text
from sglang_roce_entry.command.settings import SETTINGS, Setting, read_settings
from sglang_roce_entry.problems import EntryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sglang_roce_entry.invocation import Settings

#: Values of what the manual does not list itself, and values that it rules out. Whatever a place holds.
SAMPLES = {
    "SELECTOR": (("=mlx5_0:1,mlx5_1:1", "^mlx5_9", "mlx5", "all"), ("^=", "mlx5_0 mlx5_1")),
    "SECONDS": (("30", "1.5m", "45s"), ("soon", "-1", "1d")),
    "CIDR,...": (("10.0.0.0/8", "192.168.0.0/16,fd00::/8"), ("10.0.0.1/8", "net")),
    "NAME": (("auto", "eth0"), ("=eth0", "eth0,eth1")),
    "HOST": (("sglang-0.sglang", "10.0.0.1"), ()),
    "N": (("1", "16"), ()),
    "PORT": (("20000", "65535"), ("0", "70000")),
}
EXTRA = {"gpus": (("auto", "8"), ("0", "many")), "hca_wait": (("0",), ()), "strict": (("TRUE", "on", "0"), ())}


def values(setting: Setting) -> tuple[list[str], list[str]]:
    """Return valid and invalid texts of a setting: those of its alternatives, or those above."""
    good, bad = SAMPLES.get(setting.metavar, (setting.metavar.strip("[]").split("|"), ("maybe", "2")))
    more_good, more_bad = EXTRA.get(setting.key, ((), ()))
    return [*good, *more_good], [*bad, *more_bad]


CASES = [(one, text) for one in SETTINGS for text in values(one)[0]]
WRONG = [(one, text) for one in SETTINGS for text in values(one)[1]]
#: SGLang's abbreviations of options of its own, unless what follows is a value of ours.
SHARED = ("tp", "dist_init")
each_valid = pytest.mark.parametrize(("setting", "text"), CASES, ids=lambda one: getattr(one, "key", one))
each_invalid = pytest.mark.parametrize(("setting", "text"), WRONG, ids=lambda one: getattr(one, "key", one))
each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: one.key)


def from_line(*argv: str) -> Settings:
    """Return the settings of a launch with these options; fails where one is taken for SGLang's or a program."""
    invocation = parse_command_line((*argv, "--model-path", "/m"))
    assert invocation.rest == ("--model-path", "/m"), invocation
    return read_settings(invocation.flags, {})


def from_policy(content: str, environ: Mapping[str, str] | None = None) -> Settings:
    return read_settings({}, environ or {}, "p.yaml", lambda _: content)


def written(setting: Setting, text: str) -> list[Settings]:
    """Return what the four ways to write a setting give."""
    policy = f"{setting.key}: {text}"
    quoted = f"{setting.key}: '{text}'"
    return [
        from_line(setting.flag, text),
        from_line(f"{setting.flag}={text}"),
        read_settings({}, {setting.variable: text}),
        from_policy(policy),
        from_policy(quoted),
    ]


@each_valid
def test_each_value_in_each_place(setting: Setting, text: str) -> None:
    found = [getattr(one, setting.key) for one in written(setting, text)]
    wanted = setting.parse(text)
    assert found == [wanted] * len(found)


@each_invalid
def test_each_wrong_value_in_each_place(setting: Setting, text: str) -> None:
    for argv in ((setting.flag, text), (f"{setting.flag}={text}",)):
        if setting.key == "tp":
            assert parse_command_line(argv).rest == argv
            continue
        with pytest.raises(EntryError) as caught:
            from_line(*argv)
        assert caught.value.exit_code == 2
        assert setting.flag in caught.value.hint
    for environ, policy in (({setting.variable: text}, ""), ({}, f"{setting.key}: '{text}'")):
        with pytest.raises(EntryError) as caught:
            from_policy(policy, environ)
        assert caught.value.exit_code == 78


@each_setting
def test_the_manual_prints_it_so(setting: Setting) -> None:
    line = next(line for line in help_text().splitlines() if line.startswith(f"  {setting.flag} "))
    assert re.match(rf"  {setting.flag} {re.escape(setting.metavar)}  ", line)


@each_setting
@pytest.mark.parametrize("more", [("--check",), ("--", "--x"), ("--model-path", "/m")])
def test_without_a_value(setting: Setting, more: tuple[str, ...]) -> None:
    if setting.alone is not None:
        assert parse_command_line((setting.flag, *more)).flags == {setting.key: setting.alone}
        return
    if setting.key in SHARED:
        return
    with pytest.raises(EntryError, match="has no value"):
        parse_command_line((setting.flag, *more))


NAMED = "DOES_NOT_EXIST"


@each_setting
def test_what_was_not_expanded(setting: Setting) -> None:
    """A template's $(NAME), wherever it was written: 78, and what to do in that place."""
    text = f"$({NAMED})"
    if setting.key not in SHARED:
        for argv in ((setting.flag, text), (f"{setting.flag}={text}",)):
            assert_not_expanded(setting.flag, f"no variable {NAMED}", argv=argv)
    assert_not_expanded(setting.variable, f"no variable {NAMED}", environ={setting.variable: text})
    later = {setting.variable: text, NAMED: "1"}
    assert_not_expanded(setting.variable, f"{setting.flag} {text} in args", environ=later)
    assert_not_expanded(f"{setting.key} in", setting.variable, policy=f"{setting.key}: {text}")


def assert_not_expanded(
    where: str, remedy: str, argv: tuple[str, ...] = (), environ: dict[str, str] | None = None, policy: str = ""
) -> None:
    flags = parse_command_line((*argv, "--model-path", "/m")).flags
    with pytest.raises(EntryError) as caught:
        read_settings(flags, environ or {}, "p.yaml", lambda _: policy)
    failure = caught.value
    assert (failure.code, failure.exit_code) == ("SETTING_NOT_EXPANDED", 78)
    assert failure.message.startswith(where)
    assert remedy in failure.hint


@pytest.mark.parametrize(
    ("text", "environ", "remedy"),
    [
        ("$((RANK + 1))", {}, "no shell reads this"),
        ("$(hostname -i)", {}, "no shell reads this"),
        ("${A}-x", {"A": "1"}, "write $(A)-x in the manifest"),
        ("$(A)-$(B)", {"A": "1"}, "no variable B"),
        ("$(A)", {"A": "1"}, "escaped as $$(A)"),
    ],
)
def test_the_remedy_of_a_flag(text: str, environ: dict[str, str], remedy: str) -> None:
    assert_not_expanded("--worker-index", remedy, ("--worker-index", text), environ)


def test_a_higher_place_overrules_what_was_not_expanded() -> None:
    settings = read_settings({"group_size": "2"}, {"SGLANG_ROCE_GROUP_SIZE": "$(SIZE)"})
    assert settings.group_size == "2"
