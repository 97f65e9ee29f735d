"""What a mode says is what the launch does: the command that is there, SGLang's own command, and slips of the keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.invocation import BARE_WORD, LAUNCH
from sglang_roce_entry.problems import UsageError
from tests.healthy import healthy
from tests.planning import codes, message, plan_of
from tests.trees import Node

if TYPE_CHECKING:
    from tests.command.conftest import Run

GROUP = {"LWS_LEADER_ADDRESS": "10.9.9.9", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}
MODES = ("--dry-run", "--dry-run=json", "--check", "--check=json", "--print-env", "--print-env=json")
OFF = ("--rdma", "off")
PYTHON = ("python3", "-m", "sglang.launch_server")


def programs(folder: Path) -> dict[str, int]:
    """Make files that can and cannot be executed in ``folder``; return the code that a start of each ends with."""
    contents = {
        "fine": ("#!/bin/sh\nexit 0\n", 0o755, 0),
        "plain": ("#!/bin/sh\n", 0o644, 126),
        "no-interpreter": ("#!/no/such/interpreter\n", 0o755, 127),
        "no-format": ("exit 0\n", 0o755, 126),
        "empty": ("", 0o755, 126),
        "of-a-folder": ("#!/tmp\n", 0o755, 126),
    }
    for name, (text, mode, _) in contents.items():
        path = folder / name
        path.write_text(text, encoding="ascii")
        path.chmod(mode)
    (folder / "folder").mkdir()
    return {**{name: code for name, (_, _, code) in contents.items()}, "folder": 126, "absent": 127}


@pytest.mark.parametrize("in_path", [True, False], ids=["on PATH", "by path"])
def test_a_command_ends_in_a_mode_as_its_start_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_path: bool
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, code in programs(tmp_path).items():
        word = name if in_path else f"{tmp_path}/{name}"
        assert run(*OFF, word).code == code, word
        ran = run(*OFF, "--dry-run", word)
        assert ran.code == code, (word, ran)
        if code:
            assert f"cannot execute '{word}'" in ran.out


@pytest.mark.parametrize("mode", MODES)
def test_a_command_that_is_not_there(run: Run, mode: str) -> None:
    ran = run(*OFF, mode, "no-such-command")
    assert ran.code == 127
    assert "cannot execute 'no-such-command': not found" in ran.out + ran.err


def test_the_search_goes_on_behind_what_may_not_be_executed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        programs(tmp_path / name)
    (tmp_path / "first" / "fine").chmod(0o644)
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}/first:{tmp_path}/second")
    assert run(*OFF, "--dry-run", "fine").code == 0
    assert run(*OFF, "fine").code == 0


def test_a_recording_does_not_know_its_programs(run: Run) -> None:
    words = "if the recorded node has 'no-such-command'"
    assert words in run("--snapshot", "h20-roce", "--dry-run", "no-such-command").out
    checked = run("--snapshot", "h20-roce", "--check", "no-such-command").out
    assert words in checked
    assert "command: whether the recorded node has" in checked


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("check", "did you mean --check?"),
        ("dry-run", "did you mean --dry-run?"),
        ("dryrun", "did you mean --dry-run?"),
        ("print_env", "did you mean --print-env?"),
        ("help", "did you mean --help?"),
        ("serve", "SGLang's arguments alone"),
        ("exec", "leave it out"),
        ("NCCL_DEBUG=INFO", "NAME=value"),
        ("benchmark", "check the spelling"),
    ],
)
def test_a_word_that_was_meant_otherwise(run: Run, word: str, hint: str) -> None:
    for argv in ((word,), ("--print-env", word, "x")):
        ran = run(*OFF, *argv)
        assert ran.code == 127
        assert hint in ran.out + ran.err


@pytest.mark.parametrize("mode", ["--dry-run", "--check", "--print-env"])
@pytest.mark.parametrize("form", ["json", "text", "shell"])
def test_a_space_before_the_form(mode: str, form: str) -> None:
    if form not in {"--print-env": ("shell", "json")}.get(mode, ("text", "json")):
        assert parse_command_line((mode, form)).form == BARE_WORD
        return
    with pytest.raises(UsageError) as caught:
        parse_command_line((mode, *OFF, form, "--model-path", "/m"))
    assert f"write {mode}={form}" in caught.value.hint


def without_sglang(*, installed: bool) -> Node:
    return healthy().set(versions={"sglang": "0.5.9" if installed else None})


@pytest.mark.parametrize("mode", MODES)
def test_no_arguments_and_no_sglang(run: Run, mode: str) -> None:
    """A mode needs no arguments; whether SGLang is there it says with and without them."""
    for argv in ((), ("--model-path", "/m")):
        ran = run(mode, *argv, node=without_sglang(installed=False))
        assert ran.code == 78, (argv, ran)
        assert "SGLang is not installed in this interpreter" in ran.out + ran.err
    assert run(mode, "bash", node=without_sglang(installed=False)).code == 0, "it needs none"


@pytest.mark.parametrize("mode", ["--dry-run", "--check"])
def test_no_arguments(run: Run, mode: str) -> None:
    last = run(mode, node=without_sglang(installed=True)).out.splitlines()[-1]
    assert last.startswith("With SGLang's arguments a launch would go ahead")


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (PYTHON, ()),
        (("/usr/bin/python3.12", "-u", "-m", "sglang.launch_server"), ()),
        (("python", "-X", "faulthandler", "-W", "ignore", "-OO", "-m", "sglang.launch_server"), ()),
        (("python3", "-Xdev", "-Wignore", "-um", "sglang.launch_server"), ()),
        (("python3", "-msglang.launch_server"), ()),
        (("python3", "--check-hash-based-pycs", "never", "-m", "sglang.launch_server"), ()),
        (("python3", "/sgl-workspace/sglang/python/sglang/launch_server.py"), ()),
        (("python3", "sglang/launch_server.py"), ()),
        (("sglang", "serve"), ()),
        (("/opt/venv/bin/sglang", "serve"), ()),
        (("python3", "/usr/local/bin/sglang", "serve"), ()),
        (("python3", "-m", "sglang.cli.main", "serve"), ()),
        (("sglang", "serve", "/models/m"), ("--model-path", "/models/m")),
    ],
)
@pytest.mark.parametrize("before", [(), ("--rdma", "off"), ("--strict",), ("--",)])
def test_sglangs_own_command_is_the_launch(
    words: tuple[str, ...], arguments: tuple[str, ...], before: tuple[str, ...]
) -> None:
    invocation = parse_command_line((*before, *words, "--tp", "8"))
    assert (invocation.form, invocation.rest) == (LAUNCH, (*arguments, "--tp", "8"))
    assert invocation.replaced == words[: len(words) - len(arguments[1:])]
    plan = plan_of(healthy(), *words, "--model-path", "/m", environ=GROUP)
    assert plan.argv is not None
    assert plan.argv[:3] == PYTHON
    assert {"--nnodes", "--node-rank", "--dist-init-addr"} <= set(plan.argv)
    assert plan.wait is not None


@pytest.mark.parametrize("choice", [("--model-type", "llm"), ("--model-type=auto",)])
def test_serve_drops_what_the_server_does_not_know(choice: tuple[str, ...]) -> None:
    """sglang/cli/serve.py takes --model-type away before SGLang's parser sees it; a diffusion model has its own."""
    invocation = parse_command_line(("sglang", "serve", *choice, "--model-path", "/m"))
    assert invocation.rest == ("--model-path", "/m")
    other = parse_command_line(("sglang", "serve", "--model-type", "diffusion", "--model-path", "/m"))
    assert other.form == BARE_WORD


@pytest.mark.parametrize(
    "words",
    [
        ("python3", "-m", "sglang.bench_serving"),
        ("python3", "-c", "import sglang.launch_server"),
        ("python3", "x.py", "-m", "sglang.launch_server"),
        ("sglang", "generate"),
        ("python3",),
        ("grep", "sglang.launch_server", "log"),
    ],
)
def test_other_commands_are_not(words: tuple[str, ...]) -> None:
    assert parse_command_line(words).form == BARE_WORD
    assert "SGLANG_WRAPPED" not in codes(plan_of(healthy(), *words, environ=GROUP))


def test_it_is_said_in_one_line(run: Run) -> None:
    ran = run("--dry-run", *PYTHON, "--model-path", "/m", node=healthy(), environ=GROUP)
    assert [
        line for line in ran.err.splitlines() if "python3 -m sglang.launch_server starts SGLang itself" in line
    ]
    assert "--node-rank 1" in ran.out


def test_ours_behind_sglangs_own_command_is_refused() -> None:
    with pytest.raises(UsageError, match="--hca is among"):
        parse_command_line((*PYTHON, "--hca", "mlx5_0"))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("sh", "-c", "exec python3 -m sglang.launch_server --tp 8"), "'sh -c'"),
        (
            ("/bin/bash", "-lc", "ulimit -l unlimited; NCCL_DEBUG=INFO python3 -m sglang.launch_server"),
            "'/bin/bash -lc'",
        ),
        (("bash", "-c", 'cd /x && sglang serve --model-path "$M"'), "'bash -c'"),
        (("exec", *PYTHON), "'exec'"),
        (("env", "NCCL_DEBUG=INFO", *PYTHON), "'env'"),
        (("numactl", "-N", "0", "sglang", "serve", "/m"), "'numactl'"),
        (("tini", "--", "bash", "-c", "python3 /a/sglang/launch_server.py"), "'tini'"),
    ],
)
def test_a_wrapper_in_a_group_is_named(words: tuple[str, ...], name: str) -> None:
    plan = plan_of(healthy(), *words, environ=GROUP)
    assert message(plan, "SGLANG_WRAPPED").startswith(f"{name} starts SGLang in a group of 2")
    assert plan.exit_code == 0
    assert "SGLANG_WRAPPED" not in codes(plan_of(healthy().set(environ={}), *words)), "alone it has no ranks"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("", "--model-path", "/m"), "first argument is empty"),
        (("--", "", "--model-path"), "first argument is empty"),
        (("--rdma", "off", ""), "first argument is empty"),
        (("\N{EN DASH}-model-path", "/m"), "begins with an en dash"),
        (("\N{EM DASH}dry-run",), "begins with an em dash"),
        (("\N{MINUS SIGN}\N{MINUS SIGN}tp", "8"), "begins with a minus sign"),
        (("--model-path", "/m", "\N{EM DASH}tp-size", "8"), "begins with an em dash"),
        (("--model-path /m",), "has a space"),
        (("--model-path /m", "--tp", "8"), "has a space"),
        (("--", "--tp 8"), "has a space"),
        ((" --model-path", "/m"), "has a space"),
        (("python3 -m sglang.launch_server",), "has a space"),
        (("bash\N{NO-BREAK SPACE}-c",), "has a space"),
        (("\N{ZERO WIDTH NO-BREAK SPACE}--model-path",), "has a space or an invisible"),
        (("$(ARGS)", "--tp", "8"), "was not expanded"),
        (("${ARGS}",), "was not expanded"),
        (("/opt/$(NAME)/bin/run",), "was not expanded"),
    ],
)
@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
def test_what_can_be_no_first_argument(argv: tuple[str, ...], words: str, mode: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_command_line((*mode, *argv))
    assert words in caught.value.message
    assert caught.value.hint


SECRET = "S3CRET"


@pytest.mark.parametrize(
    "words",
    [
        ("bash", "-c", f"export HF_TOKEN={SECRET}; true"),
        ("sh", "-c", f"true --api-key {SECRET}"),
        ("env", f"DB_PASS={SECRET}", "true"),
        ("true", SECRET),
        (f"DB_PASS={SECRET}", "true"),
        (f"DB_PASS={SECRET}", "python3", "-m", "sglang.launch_server"),
    ],
)
def test_of_another_program_only_its_name_is_shown(run: Run, words: tuple[str, ...]) -> None:
    count = f"({len(words) - 1} argument"
    for mode in ((), ("--dry-run",), ("--check",), ("--print-env",)):
        ran = run(*OFF, *mode, *words, environ=GROUP)
        assert SECRET not in ran.out + ran.err, mode
        if words[0] == "bash" and not mode:
            assert f"exec bash {count}s, not shown)" in ran.err
    shown = run(*OFF, "--dry-run=json", *words).document["argv"]
    assert shown[1].startswith(count)
    assert len(shown) == 2


WRONG: tuple[dict[str, Any], ...] = (
    {"environ": {"SGLANG_ROCE_STRIKT": "1"}, "code": 78, "named": "UNKNOWN_VARIABLE"},
    {"environ": {"SGLANG_ROCE_RDMA": "maybe"}, "code": 78, "named": "SETTING"},
    {"environ": {"SGLANG_ROCE_GPUS": "$(GPUS)"}, "code": 78, "named": "SETTING_NOT_EXPANDED"},
    {"options": ("--policy", "no-such.yaml"), "code": 78, "named": "POLICY"},
    {"options": ("--rdma", "maybe"), "code": 2, "named": "USAGE"},
    {"options": ("--strict", "maybe"), "code": 2, "named": "USAGE"},
    {"options": ("--snapshot", "no-such.tar.gz"), "code": None, "named": "SNAPSHOT"},
    {"arguments": ("--config", "no-such.yaml"), "code": 78, "named": "CONFIG_FILE"},
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda one: one["named"])
def test_a_wrong_setting_still_gives_the_document(run: Run, wrong: dict[str, Any]) -> None:
    options, environ = wrong.get("options", ()), wrong.get("environ")

    def asked(mode: str, *, first: bool = False) -> Any:
        ours = (mode, *options) if first else (*options, mode)
        ran = run(*ours, "--", "--model-path", "/m", *wrong.get("arguments", ()), environ=environ)
        assert ran.code == wrong["code"] or (wrong["code"] is None and ran.code)
        return ran.document

    document = asked("--dry-run=json")
    fine = run("--snapshot", "h20-roce", "--dry-run=json", "--", "--model-path", "/m").document
    assert list(document) == list(fine)
    assert document["identity"] is None
    assert document["argv"] is None
    (problem,) = document["problems"]
    assert problem["code"].startswith(wrong["named"])
    assert problem["hint"]
    assert document["exit_code"] in (2, 78)
    (item,) = asked("--check=json", first=True)["items"]
    assert (item["status"], item["evidence"]) == ("fail", problem["message"])
    assert asked("--print-env=json") == {}
