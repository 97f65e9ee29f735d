"""Bad input ends in one line with the value and one with the fix, in the right exit code."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.launch import handover
from sglang_roce_entry.problems import EntryError
from tests.process.command import without_times
from tests.trees import V1, Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run

LWS = {"LWS_LEADER_ADDRESS": "sglang-0.sglang", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "0"}
MODEL = ("--model-path", "/m")


def group() -> Node:
    """Return a node of a group with one good HCA, whose GID is at index 7; 3 is RoCE v1, 5 another pod's."""
    node = Node().interface("eth0", "10.0.0.11/24").interface("net1", "10.20.0.1/24")
    port = node.hca("mlx5_0").port()
    port.pair("fe80::1", "net1", 0).gid(3, "10.20.0.1", V1, "net1")
    port.gid(5, "10.20.0.99", "RoCE v2", "net1").gid(7, "10.20.0.1", "RoCE v2", "net1")
    return node.set(
        environ=LWS,
        gpus=8,
        memlock="unlimited",
        resolve={"sglang-0.sglang": ["10.0.0.11"]},
        versions={"sglang": "0.5.10", "nccl": "2.28.3"},
    )


#: Environment, SGLang arguments, exit code, problem code, words of the message.
BAD = {
    "incomplete identity": ({"LWS_WORKER_INDEX": ""}, MODEL, 78, "HALF_IDENTITY", "but not the worker index"),
    "unexpanded index": (
        {"LWS_WORKER_INDEX": "$(LWS_WORKER_INDEX)"}, MODEL, 78, "IDENTITY_NOT_EXPANDED", "'$(LWS_WORKER_INDEX)'",
    ),
    "index abc": ({"LWS_WORKER_INDEX": "abc"}, MODEL, 78, "IDENTITY_NUMBER", "'abc'"),
    "index 2 of 2": ({"LWS_WORKER_INDEX": "2"}, MODEL, 78, "INDEX_OUT_OF_RANGE", "worker index 2"),
    "index -1": ({"LWS_WORKER_INDEX": "-1"}, MODEL, 78, "IDENTITY_NUMBER", "'-1'"),
    "rank unexpanded": (
        {"LWS_GROUP_SIZE": "1"}, (*MODEL, "--node-rank", "$(RANK)"), 78, "IDENTITY_NOT_EXPANDED", "--node-rank '$(RANK)'",
    ),
    "rank empty": ({}, (*MODEL, "--node-rank="), 78, "IDENTITY_NUMBER", "'' (--node-rank)"),
    "nodes unexpanded": ({}, (*MODEL, "--nnodes", "$(N)"), 78, "IDENTITY_NOT_EXPANDED", "--nnodes '$(N)'"),
    "nodes with braces": (
        {}, (*MODEL, "--nnodes", "${N}"), 78, "IDENTITY_NOT_EXPANDED", "--nnodes '${N}' was not expanded",
    ),
    "leader unspecified": ({"LWS_LEADER_ADDRESS": "0.0.0.0"}, MODEL, 78, "LEADER_ADDRESS", "a server listens"),
    "leader multicast": ({"LWS_LEADER_ADDRESS": "[ff02::1]"}, MODEL, 78, "LEADER_ADDRESS", "a multicast address"),
    "leader broadcast": (
        {"LWS_LEADER_ADDRESS": "255.255.255.255"}, MODEL, 78, "LEADER_ADDRESS", "the broadcast address",
    ),
    "leader unspecified and mapped": (
        {"LWS_LEADER_ADDRESS": "[::ffff:0.0.0.0]"}, MODEL, 78, "LEADER_ADDRESS", "a server listens",
    ),
    "dist-init unspecified beside LWS": (
        {}, (*MODEL, "--dist-init-addr", "[::]:20000"), 78, "LEADER_ADDRESS", "a server listens",
    ),
    "dist-init unspecified beside a flag": (
        {"SGLANG_ROCE_LEADER_ADDRESS": "sglang-0.sglang"}, (*MODEL, "--dist-init-addr", "0.0.0.0:20000"),
        78, "LEADER_ADDRESS", "(--dist-init-addr)",
    ),
    "leader broadcast of the pod's network": (
        {"LWS_LEADER_ADDRESS": "10.0.0.255", "LWS_WORKER_INDEX": "1"}, MODEL, 78, "LEADER_ADDRESS",
        "the broadcast address of 10.0.0.0/24 (eth0)",
    ),
    "leader broadcast, of SGLang": (
        {"LWS_LEADER_ADDRESS": "", "LWS_GROUP_SIZE": "", "LWS_WORKER_INDEX": ""},
        (*MODEL, "--dist-init-addr", "10.20.0.255:20000", "--nnodes", "2", "--node-rank", "1"),
        78, "LEADER_ADDRESS", "the broadcast address of 10.20.0.0/24 (net1)",
    ),
    "leader with scheme": ({"LWS_LEADER_ADDRESS": "tcp://a"}, MODEL, 78, "LEADER_ADDRESS", "'tcp://a'"),
    "leader with port": ({"LWS_LEADER_ADDRESS": "a:1"}, MODEL, 78, "LEADER_ADDRESS", "'a:1'"),
    "leader with spaces": ({"LWS_LEADER_ADDRESS": "a b"}, MODEL, 78, "LEADER_ADDRESS", "'a b'"),
    "leader bare IPv6": ({"LWS_LEADER_ADDRESS": "fd00::1"}, MODEL, 78, "LEADER_ADDRESS", "'fd00::1'"),
    "port out of range": (
        {}, (*MODEL, "--dist-init-addr", "h:70000"), 78, "DIST_INIT_ADDR", "'h:70000'",
    ),
    "http port": ({}, (*MODEL, "--port", "0"), 78, "ARGUMENT", "--port '0'"),
    "http port beyond": ({}, (*MODEL, "--port", "70000"), 78, "ARGUMENT", "--port 70000"),
    "http port is the rendezvous port": ({}, (*MODEL, "--port", "20000"), 78, "PORT_CLASH", "20000"),
    "tp and the GPUs": ({}, (*MODEL, "--tp", "32"), 78, "TP_GPUS", "--tp 32"),
    "tp and the nodes": ({}, (*MODEL, "--tp", "15"), 78, "TP_NODES", "--tp 15"),
    "rank contradicts": ({}, (*MODEL, "--node-rank", "1"), 78, "IDENTITY_CONTRADICTION", "--node-rank 1"),
    "selector": ({"NCCL_IB_HCA": "=mlx5_9"}, MODEL, 69, "SELECTOR_MATCHES_NOTHING", "=mlx5_9"),
    "index v1": ({"NCCL_IB_GID_INDEX": "3"}, MODEL, 0, "GID_INDEX_WRONG", "RoCE v1"),
    "index foreign": ({"NCCL_IB_GID_INDEX": "5"}, MODEL, 0, "GID_INDEX_WRONG", "10.20.0.99"),
    "index empty": ({"NCCL_IB_GID_INDEX": "9"}, MODEL, 0, "GID_INDEX_WRONG", "index 9 is empty"),
    "strict index": (
        {"NCCL_IB_GID_INDEX": "3", "SGLANG_ROCE_STRICT": "1"}, MODEL, 69, "GID_INDEX_WRONG", "RoCE v1",
    ),
    "service link": (
        {"SGLANG_PORT": "tcp://10.96.0.1:30000"}, MODEL, 0, "SERVICE_LINK", "tcp://10.96.0.1:30000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_values(run: Run, name: str) -> None:
    environ, argv, code, problem_code, words = BAD[name]
    ran = run("--dry-run=json", *argv, node=group(), environ=environ)
    assert ran.code == code, ran.out
    assert ran.document["exit_code"] == code
    found = [one for one in ran.document["problems"] if one["code"] == problem_code]
    assert found, ran.codes
    assert words in found[0]["message"]
    assert found[0]["hint"]
    assert found[0]["severity"] == ("error" if code else "warning")
    assert "\n" not in found[0]["message"]
    if code == 0:
        assert ran.document["environment"]["NCCL_IB_HCA"]["value"] == "=mlx5_0:1"


def test_a_leader_address_of_another_pod_is_not_said_to_resolve(run: Run) -> None:
    ran = run("--dry-run=json", *MODEL, node=group(), environ={"LWS_LEADER_ADDRESS": "10.0.0.12"})
    (problem,) = [one for one in ran.document["problems"] if one["code"] == "OWN_NAME_FOREIGN"]
    assert "the leader's address 10.0.0.12 is not an address of this pod" in problem["message"]
    assert "correct the leader address or the worker index" in problem["hint"]


def _broken(name: str) -> Node:
    node = Node().interface("eth0", "10.0.0.11/24").interface("net1", "10.20.0.1/24")
    if name == "no verbs":
        node.hca("mlx5_0", verbs="ENOENT").port().pair("10.20.0.1", "net1", 2)
    elif name == "denied":
        node.hca("mlx5_0", verbs="EPERM").port().pair("10.20.0.1", "net1", 2)
    elif name == "foreign":
        node.hca("mlx5_0").port().pair("10.99.0.1", "ens1", 2)
    elif name == "down":
        for number in range(2):
            node.hca(f"mlx5_{number}").port(state="1: DOWN").pair("10.20.0.1", "net1", 2)
    return node.set(environ=LWS, gpus=8, resolve={"sglang-0.sglang": ["10.0.0.11"]})


UNUSABLE = {
    "none": ("/sys/class/infiniband is empty", "--rdma off"),
    "no verbs": ("NO_VERBS on mlx5_0:1", "rdma/"),
    "denied": ("VERBS_DENIED on mlx5_0:1", "device cgroup"),
    "foreign": ("NO_OWN_GID on mlx5_0:1", "hostNetwork"),
    "down": ("PORT_NOT_ACTIVE on mlx5_0:1, mlx5_1:1", "cable"),
}


@pytest.mark.parametrize("name", sorted(UNUSABLE))
def test_rdma_required_but_unusable(run: Run, name: str) -> None:
    words, remedy = UNUSABLE[name]
    ran = run("--dry-run=json", *MODEL, node=_broken(name))
    assert ran.code == 69
    (problem,) = [one for one in ran.document["problems"] if one["severity"] == "error"]
    assert problem["code"] == "NO_USABLE_HCA"
    assert words in problem["message"]
    assert remedy in problem["hint"]
    assert ran.document["argv"] is not None  # what could be decided is still shown
    assert ran.document["wait"]["for"] == "own_name"


def test_the_first_error_in_the_order_of_the_stages_decides(run: Run) -> None:
    ran = run("--dry-run=json", *MODEL, node=_broken("none"), environ={"LWS_WORKER_INDEX": "7"})
    assert ran.code == 78
    assert set(ran.codes) >= {"INDEX_OUT_OF_RANGE"}


@pytest.mark.parametrize(
    ("argv", "environ", "code", "words"),
    [
        ((), {}, 2, "no SGLang arguments"),
        (("--snapshot", "h20-roce", *MODEL), {}, 2, "cannot be launched"),
        (("--hca", "x", "--print_env"), {}, 2, "--print_env is not an option"),
        (("--policy", "none.yaml", *MODEL), {}, 78, "none.yaml"),
        (MODEL, {"SGLANG_ROCE_STRCT": "1"}, 78, "SGLANG_ROCE_STRCT"),
        (MODEL, {"LWS_GROUP_SIZE": "2"}, 78, "incomplete identity"),
        (("--dry-run", "--snapshot", "nowhere"), {}, 78, "'nowhere'"),
        (("--dry-run", "--config", "none.yaml"), {}, 78, "none.yaml"),
        (("no-such-program",), {}, 127, "'no-such-program'"),
        (("/etc/passwd",), {}, 126, "'/etc/passwd'"),
    ],
)
def test_the_process_says_it_in_two_lines(
    run: Run, argv: tuple[str, ...], environ: dict[str, str], code: int, words: str
) -> None:
    ran = run(*argv, environ={"SGLANG_ROCE_RDMA": "off", **environ})
    assert ran.code == code, ran.err
    lines = without_times(ran.err).splitlines()
    position = next(i for i, line in enumerate(lines) if words in line)
    assert lines[position].startswith("sglang-roce-entry: error: ")
    assert lines[position + 1].startswith("sglang-roce-entry:   fix: ")
    assert ran.out == ""


@pytest.mark.parametrize("argument", [("--nnodes", "02"), ("--nnodes=+2",), ("--node-rank", "00")])
def test_numbers_are_read_as_sglang_reads_them(run: Run, argument: tuple[str, ...]) -> None:
    ran = run("--dry-run=json", *MODEL, *argument, node=group())
    assert (ran.code, ran.document["identity"]["size"]) == (0, 2), ran.codes


def test_one_node_may_listen_anywhere(run: Run) -> None:
    """SGLang starts with --dist-init-addr 0.0.0.0:PORT, as long as nobody else has to reach it."""
    environ = dict.fromkeys(LWS, "")
    ran = run("--dry-run=json", *MODEL, "--dist-init-addr", "0.0.0.0:20100", node=group(), environ=environ)
    assert ran.code == 0, ran.codes


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["0.0.0.0"], "resolves to 0.0.0.0, where a server listens"),
        (["::"], "resolves to ::, where a server listens"),
        (["224.0.0.251"], "resolves to 224.0.0.251, a multicast address"),
    ],
)
def test_a_name_that_no_host_has_is_not_resolved(run: Run, found: list[str], words: str) -> None:
    node = group().set(resolve={"sglang-0.sglang": found})
    ran = run("--dry-run=json", *MODEL, node=node, environ={"LWS_WORKER_INDEX": "1"})
    (problem,) = [one for one in ran.document["problems"] if one["code"] == "LEADER_UNRESOLVED"]
    assert words in problem["message"]
    assert ran.document["environment"]["GLOO_SOCKET_IFNAME"]["value"] is None


POLICY: dict[str, tuple[str, int | str]] = {
    "a port with a zero": ("dist_init: 020300", 20300),
    "a port in octal": ("dist_init: 0o20300", "not a port number"),
    "a port in hexadecimal": ("dist_init: 0x4e20", "not a port number"),
    "base 60": ("hca_wait: 1:30", "'1:30' is not a duration"),
    "a date": ("interface: 2026-01-02", "names the interface '2026-01-02'"),
    "twice": ("rdma: off\nstrict: yes\nrdma: required", "line 3, column 1: this key stands already in line 1"),
    "twice, quoted": ("strict: yes\n'strict': no", "stands already"),
    "a tag": ("gpus: !!int 8", "line 1, column 7: the value has a tag"),
    "a switch that is none": ("rdma: !!bool x", "line 1, column 7: the value is no bool"),
    "an unknown tag": ("gpus: !eight 8", "line 1, column 7: the value has a tag"),
    "switches": ("rdma: no\nstrict: off\ntp: off", 20000),
}


@pytest.mark.parametrize("name", sorted(POLICY))
def test_a_policy_means_what_is_written(run: Run, tmp_path: Path, name: str) -> None:
    text, expected = POLICY[name]
    (tmp_path / "policy.yaml").write_text(text)
    worker = {"LWS_WORKER_INDEX": "1"}
    ran = run("--policy", "policy.yaml", "--dry-run=json", *MODEL, "--tp", "16", node=group(), environ=worker)
    if isinstance(expected, int):
        assert ran.code == 0, ran.out + ran.err
        assert expected in ran.document["wait"]["ports"]
    else:
        assert ran.code == 78
        assert expected in ran.out + ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"- 1", "is not a mapping [POLICY]"),
        (b"a: [", "line 1, column 5: expected the node content, but found '<stream end>' [POLICY]"),
        (b"a: [b\n", "line 2, column 1: expected ',' or ']', but got '<stream end>' [POLICY]"),
        (b"a:\n\tb: c\n", "line 2, column 1: found character '\\t' that cannot start any token [POLICY]"),
        (b"a: b: c\n", "line 1, column 5: mapping values are not allowed here [POLICY]"),
        (b"hca_wiat: 3", "has the unknown key 'hca_wiat' [POLICY]"),
        (b"hca_wait: soon", "hca_wait in policy.yaml: 'soon' is not a duration"),
        (b"\x00", "special characters are not allowed [POLICY]"),
        (b"\xff\xfe\xff", "is not YAML: it is no text in UTF-8 [POLICY]"),
    ],
)
def test_policy_files(run: Run, tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "policy.yaml").write_bytes(text)
    ran = run("--policy", "policy.yaml", *MODEL)
    assert ran.code == 78
    assert "policy.yaml" in ran.err
    assert said in ran.err
    assert "***" not in ran.err


YAML = {
    "mapping in a line": 'api-key: hunter2"\n  tp-size: [hunter2\n',
    "escape": 'api-key: "hunter2\\q"\n',
    "alias": "api-key: *hunter2\n",
    "integer": "api-key: !!int hunter2\n",
    "empty integer": "tp-size: !!int ''\n",
    "boolean": "tp-size: !!bool hunter2\n",
    "time": "tp-size: !!timestamp hunter2\n",
    "key": "? !!float ''\n: hunter2\n",
}


@pytest.mark.parametrize("name", sorted(YAML))
def test_yaml_that_is_none_is_said_without_its_words(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "f.yaml").write_text(YAML[name])
    for argv in (
        ("--policy", "f.yaml", "--print-env"),
        ("--print-env", *MODEL, "--config", "f.yaml"),
        ("--check", *MODEL, "--config", "f.yaml"),
        ("--probe", "readiness", "--", "--config", "f.yaml"),
    ):
        ran = run(*argv)
        assert ran.code == (1 if "--probe" in argv else 78), ran.out + ran.err
        assert "f.yaml' is not YAML: " in ran.out + ran.err
        assert "hunter2" not in ran.out + ran.err


def test_numbers_in_yaml_that_python_cannot_write(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(f"linger: 0x{'f' * 6000}\n")
    assert run("--policy", "f.yaml", "--print-env").code == 78
    (tmp_path / "f.yaml").write_text(f"port: 0x{'f' * 6000}\n")
    assert run("--print-env", *MODEL, "--config", "f.yaml", node=group()).code == 78


@pytest.mark.parametrize(
    "argv",
    [
        ("-api-key=hunter2",),
        ("--dry-run", "--api_key=hunter2"),
        ("--dry-run", "--api_key", "hunter2"),
        ("--dry-run=json", *MODEL, "--admin-api", "hunter2"),
        ("--check", "--api-key", "hunter2"),
        ("--dry-run", "env", "HF_TOKEN=hunter2", "true"),
        ("env", "HF_TOKEN=hunter2", "true"),
    ],
)
def test_secrets_of_the_command_line_are_not_shown(run: Run, argv: tuple[str, ...]) -> None:
    ran = run(*argv, environ={"SGLANG_ROCE_LINGER": "0"})
    assert "hunter2" not in ran.out + ran.err


def test_service_variables_of_that_name_are_ignored(run: Run) -> None:
    environ = {
        "SGLANG_ROCE_LEADER_SERVICE_HOST": "10.96.0.7",
        "SGLANG_ROCE_LEADER_PORT": "tcp://10.96.0.7:1",
        "SGLANG_ROCE_LEADER_PORT_1_TCP_ADDR": "10.96.0.7",
    }
    assert run("--dry-run=json", *MODEL, node=group(), environ=environ).code == 0


def test_sglang_that_is_not_installed(run: Run) -> None:
    node = group().set(versions={"sglang": None, "nccl": "2.28.3"})
    ran = run("--dry-run=json", *MODEL, node=node)
    assert (ran.code, ran.codes) == (78, ["SGLANG_MISSING"])


def test_json_log_lines(run: Run) -> None:
    import json

    ran = run(*MODEL, environ={"SGLANG_ROCE_LOG_FORMAT": "json", "LWS_GROUP_SIZE": "2"})
    documents = [json.loads(line) for line in ran.err.splitlines()]
    assert any(one["level"] == "error" and one["code"] == "HALF_IDENTITY" and one["hint"] for one in documents)


def test_no_hardware_is_waited_for_when_the_arguments_are_wrong(run: Run) -> None:
    ran = run("--hca-wait", "50", "--linger", "0", *MODEL, "--tp", "3", environ=LWS)
    assert ran.code == 78
    assert "--tp 3 cannot be divided among 2 nodes" in ran.err
    assert "waiting for" not in ran.err


def test_a_defect_is_no_traceback(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.command.conftest import clean_environment

    code = (
        "import sys; from sglang_roce_entry.launch import launch; from sglang_roce_entry.command.cli import main\n"
        "def broken(*_): raise KeyError('x')\n"
        "launch.identify = broken\n"
        "sys.exit(main(['--model-path', '/m']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment(), check=False
    )
    assert done.returncode == 70
    assert "internal error at <string>:2: KeyError: 'x'" in done.stderr
    assert "Traceback" not in done.stderr


KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}


@pytest.mark.parametrize("argv", [("--snapshot", "h20-roce", "--dry-run=yaml"), ("--strict", "--check=yaml")])
def test_a_mode_that_is_misspelt_does_not_linger(run: Run, argv: tuple[str, ...]) -> None:
    """Somebody sits before it, and the termination log belongs to the launch of this pod."""
    ran = run(*argv, environ=KUBERNETES)
    assert ran.code == 2
    assert "is not a format" in ran.err
    assert "exiting in" not in ran.err


def test_a_flag_decides_the_linger_also_where_a_variable_is_wrong(run: Run) -> None:
    ran = run(
        "--linger", "0", *MODEL, environ={**KUBERNETES, "SGLANG_ROCE_LINGER": "20", "SGLANG_ROCE_RMDA": "off"}
    )
    assert ran.code == 78
    assert "SGLANG_ROCE_RMDA" in ran.err
    assert "exiting in" not in ran.err


@pytest.mark.parametrize(("name", "code"), [("no-such-program", 127), ("there", 126), ("./no-such-program", 126)])
def test_a_closed_directory_of_the_path_does_not_hide_that_a_command_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, code: int
) -> None:
    """What execvp answers where a user may not enter a directory of PATH, such as root's."""
    (tmp_path / "there").touch()

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for replaced in ("_close_on_exec", "_default_signals"):
        monkeypatch.setattr(handover, replaced, lambda: None)
    monkeypatch.setattr(os, "execvpe", refused)
    with pytest.raises(EntryError) as failure:
        handover.hand_over([name], {"PATH": str(tmp_path)})
    assert failure.value.exit_code == code


@pytest.mark.parametrize(
    ("argv", "environ", "code", "problem"),
    [
        (MODEL, {"SGLANG_ROCE_STRIKT": "1"}, 78, "UNKNOWN_VARIABLE"),
        (("--policy", "/none.yaml", *MODEL), {}, 78, "POLICY"),
        (("--strict=perhaps", *MODEL), {}, 2, "USAGE"),
        (("--snapshot", "h20-roce", *MODEL), {}, 2, "USAGE"),
        ((*MODEL, "--config", "none.yaml"), {}, 78, "CONFIG_FILE"),
    ],
    ids=["variable", "policy", "flag", "snapshot", "config"],
)
def test_a_rehearsal_that_cannot_begin_has_its_document(
    run: Run, argv: tuple[str, ...], environ: dict[str, str], code: int, problem: str
) -> None:
    ran = run("--rehearse=json", *argv, environ=environ)
    shown = ran.document
    assert (ran.code, shown["exit_code"], ran.codes) == (code, code, [problem])
    assert shown.keys() == run("--rehearse=json", "--rdma", "off", environ={"LWS_GROUP_SIZE": "2"}).document.keys()
    assert f"[{problem}]" in ran.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "is not JSON"),
        (b'{"format": 2}', "newer sglang-roce-entry"),
        (b'{"format": 1, "members": [{"card": {"rails": [[]]}}]}', "the card of members[0]"),
        (b"[" * 3_000_000, "is larger than any meeting"),
    ],
    ids=["absent", "empty", "newer", "damaged", "large"],
)
def test_a_file_that_is_no_meeting(run: Run, tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "meeting.json").write_bytes(content)
    ran = run("--meeting-file", "meeting.json", "--rehearse=json")
    assert (ran.code, ran.codes) == (78, ["MEETING_FILE"])
    assert said in ran.document["problems"][0]["message"]


def test_a_place_where_no_meeting_can_be_saved_is_said_before_anybody_is_waited_for(
    run: Run, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    group = {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1", "LWS_LEADER_ADDRESS": "127.0.0.1"}
    for place in ("none/meeting.json", ".", "fifo"):
        ran = run("--save-meeting", place, "--rehearse=json", environ=group)
        assert (ran.code, ran.codes) == (2, ["MEETING_WRITE"])
        assert repr(place) in ran.document["problems"][0]["message"]
