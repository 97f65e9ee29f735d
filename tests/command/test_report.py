"""The contracts: JSON of the dry run and of the environment, the shell form, the text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from sglang_roce_entry.report.text import is_secret_variable
from tests.command.conftest import Run, clean_environment
from tests.packaged import PACKAGED

MODEL = ("--model-path", "/models/deepseek", "--trust-remote-code")


def test_dry_run_document_of_the_leader(run: Run) -> None:
    ran = run("--snapshot", "h20-roce", "--dry-run=json", *MODEL)
    assert ran.code == 0
    document = ran.document
    assert list(document) == [
        "format", "identity", "ports", "environment", "argv", "wait", "problems", "exit_code",
        "gpus", "affinity", "fingerprint",
    ]  # fmt: skip
    assert document["format"] == 1
    assert document["identity"] == {
        "leader": "sglang-0.sglang.default", "size": 2, "index": 0, "source": "LWS_*",
    }  # fmt: skip
    assert document["ports"][2] == {
        "device": "mlx5_bond_2",
        "port": 1,
        "used": True,
        "reason": None,
        "detail": "RoCE v2 GID 10.20.2.11 on bond2 at index 3",
        "gid_index": 3,
        "gid": "10.20.2.11",
        "netdev": "bond2",
        "rate_gbps": 200.0,
    }
    assert document["argv"] == [
        "python3", "-m", "sglang.launch_server", "--tp-size", "16", "--nnodes", "2", "--node-rank", "0",
        "--dist-init-addr", "sglang-0.sglang.default:20000", "--host", "0.0.0.0", *MODEL,
    ]  # fmt: skip
    assert document["wait"] == {
        "for": "own_name", "host": "sglang-0.sglang.default", "ports": [], "deadline_s": 1800.0,
    }  # fmt: skip
    assert document["problems"] == []
    values = {name: one["value"] for name, one in document["environment"].items() if one["value"]}
    assert values == {
        "GLOO_SOCKET_IFNAME": "eth0",
        "MC_GID_INDEX": "3",
        "NCCL_IB_GID_INDEX": "3",
        "NCCL_IB_HCA": "=mlx5_bond_0:1,mlx5_bond_1:1,mlx5_bond_2:1,mlx5_bond_3:1",
        "NCCL_NET": "IB",
        "NCCL_SOCKET_IFNAME": "=eth0",
        "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": "=eth0",
        "NVSHMEM_IB_GID_INDEX": "3",
        "SGLANG_HOST_IP": "10.0.0.11",
        "UCX_IB_GID_INDEX": "3",
    }
    for one in document["environment"].values():
        assert set(one) == {"value", "source", "reason"}
        assert one["source"] in ("user", "file", "discovered", "default", "withheld")
        assert one["reason"]


def test_worker_on_the_pod_snapshot(run: Run) -> None:
    document = run("--snapshot", "cx7-pod", "--dry-run=json", *MODEL).document
    assert document["identity"]["index"] == 1
    assert document["wait"] == {
        "for": "leader", "host": "sglang-0.sglang.default", "ports": [20000, 20001, 20013], "deadline_s": 1800.0,
    }  # fmt: skip
    assert document["environment"]["NCCL_IB_GID_INDEX"]["value"] == "5"
    assert document["environment"]["SGLANG_HOST_IP"]["value"] == "10.244.2.23"
    unused = [port for port in document["ports"] if not port["used"]]
    assert [(port["device"], port["reason"]) for port in unused] == [("mlx5_0", "NO_VERBS")]


def test_the_callers_variables_win(run: Run) -> None:
    environ = {"LWS_WORKER_INDEX": "1", "LWS_GROUP_SIZE": "4"}
    document = run("--snapshot", "h20-roce", "--dry-run=json", *MODEL, environ=environ).document
    assert (document["identity"]["size"], document["identity"]["index"]) == (4, 1)
    assert document["argv"][3:5] == ["--tp-size", "32"]


def test_one_node(run: Run) -> None:
    environ = {"LWS_LEADER_ADDRESS": "$(X)", "LWS_GROUP_SIZE": "$(X)", "LWS_WORKER_INDEX": "$(X)"}
    document = run("--snapshot", "h20-roce", "--dry-run=json", *MODEL, environ=environ).document
    assert document["identity"] == {"leader": None, "size": 1, "index": 0, "source": "none"}
    assert document["wait"] is None
    assert document["argv"][3:5] == ["--host", "0.0.0.0"]
    assert document["environment"]["GLOO_SOCKET_IFNAME"]["value"] is None
    assert document["environment"]["NCCL_IB_GID_INDEX"]["value"] == "3"
    assert "NCCL_NET" not in document["environment"]


def test_a_mode_without_sglang_arguments(run: Run) -> None:
    document = run("--snapshot", "h20-roce", "--dry-run=json").document
    assert document["argv"] is None
    assert document["exit_code"] == 0
    verdict = run("--snapshot", "h20-roce", "--dry-run").out.splitlines()[-1]
    assert verdict == "With SGLang's arguments a launch would go ahead."


def test_print_env_json_is_the_environment_alone(run: Run) -> None:
    whole = run("--snapshot", "cx7-pod", "--dry-run=json", *MODEL).document
    assert run("--snapshot", "cx7-pod", "--print-env=json").document == whole["environment"]


def test_print_env_shell_is_sorted_and_explained(run: Run) -> None:
    ran = run("--snapshot", "h20-roce", "--print-env")
    lines = ran.out.splitlines()
    names = [re.split(r"[ =]", line.removeprefix("export ").removeprefix("# "))[0] for line in lines]
    assert names == sorted(names)
    pattern = r"export [A-Z0-9_]+=.* # (user|file|discovered|default): |# [A-Z0-9_]+ is not set; withheld: "
    assert all(re.match(pattern, line) for line in lines)
    assert ran.err == ""


HOSTILE = {
    "quotes": "a'b\"c",
    "newline": "a\nb",
    "substitution": "$(touch owned) `touch owned` ${HOME}",
    "comment": "a # b",
    "backslash": "a\\nb\\",
    "glob": "* ? [x]",
    "not UTF-8": "a\udcffb",
    "leading dash and tilde": "-n ~root",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_eval_gives_exactly_the_plans_values(run: Run, tmp_path: object, shell: str, name: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    environ = {"NCCL_NET": HOSTILE[name]}
    arguments = ("--snapshot", "h20-roce")
    expected = {
        key: one["value"]
        for key, one in run(*arguments, "--print-env=json", environ=environ).document.items()
        if one["value"] is not None
    }
    assert expected["NCCL_NET"] == HOSTILE[name]
    script = run(*arguments, "--print-env", environ=environ).out
    done = subprocess.run(
        [shell, "-c", 'eval "$SCRIPT"; env -0'],
        env={**clean_environment(), "SCRIPT": script},
        capture_output=True,
        cwd=str(tmp_path),
        check=True,
    )
    found = dict(part.split(b"=", 1) for part in done.stdout.split(b"\0") if part)
    for key, value in expected.items():
        assert found[key.encode()] == value.encode("utf-8", "surrogateescape")
    assert not list(__import__("pathlib").Path(str(tmp_path)).glob("owned"))


def test_text_has_all_a_tired_person_needs(run: Run) -> None:
    text = run("--snapshot", "cx7-pod", "--dry-run", *MODEL, "--api-key", "s3cr3t").out
    for words in (
        "worker 1 of 2 nodes, leader sglang-0.sglang.default",
        "mlx5_7:1",
        "NO_VERBS",
        "/dev/infiniband/uverbs0 does not exist",
        "NCCL_IB_GID_INDEX=5",
        "until sglang-0.sglang.default accepts on one of 20000, 20001, 20013",
        "--node-rank 1",
        "A launch would go ahead.",
    ):
        assert words in text, words
    assert "s3cr3t" not in text


@pytest.mark.parametrize("argv", [("--api-key", "s3cr3t"), ("--api-key=s3cr3t",), ("--api", "s3cr3t")])
def test_secrets_never_appear(run: Run, argv: tuple[str, ...]) -> None:
    for mode in ("--dry-run", "--dry-run=json"):
        ran = run("--snapshot", "h20-roce", mode, *MODEL, *argv, environ={"HF_TOKEN": "s3cr3t"})
        assert "s3cr3t" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True), ("AWS_SECRET_ACCESS_KEY", True), ("X_API_KEY", True), ("DB_PASSWORD", True),
        ("GOOGLE_CREDENTIALS", True), ("NCCL_AUTH_TOKEN", False), ("NCCL_IB_PKEY", False), ("LWS_GROUP_SIZE", False),
    ],
)  # fmt: skip
def test_secret_names(name: str, secret: bool) -> None:
    assert is_secret_variable(name) is secret


def test_a_snapshot_of_a_replay_gives_the_same_plan(run: Run, tmp_path: object) -> None:
    for name in PACKAGED:
        saved = run("--snapshot", name, "--save-snapshot", "again.tar.gz")
        assert saved.code == 0
        assert "recorded" in saved.err
        first = run("--snapshot", name, "--dry-run=json", *MODEL).out
        again = run("--snapshot", "again.tar.gz", "--dry-run=json", *MODEL).out
        assert json.loads(again) == json.loads(first)


def test_help_and_version(run: Run) -> None:
    ran = run("--help")
    assert ran.code == 0
    assert ran.out.index("examples") < ran.out.index("modes") < ran.out.index("exit codes")
    for flag in ("--hca-wait", "--foreign-gids", "--on-timeout", "--print-env", "--save-snapshot"):
        assert flag in ran.out
    assert max(map(len, ran.out.splitlines())) <= 120
    assert run("--version").out.startswith("sglang-roce-entry ")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: object) -> None:
    import sys

    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m sglang_roce_entry --help | head -n 1"],
        capture_output=True, text=True, env=clean_environment(), check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_a_bare_word_never_waits_and_is_never_refused(run: Run) -> None:
    node = PACKAGED["h20-roce"]().set(verbs={})
    document = run("--dry-run=json", "bash", "-c", "--hca", node=node, environ={"LWS_WORKER_INDEX": "x"}).document
    assert document["argv"] == ["bash", "-c", "--hca"]
    assert document["wait"] is None
    assert document["exit_code"] == 0
    assert {one["severity"] for one in document["problems"]} == {"warning"}
    assert "IDENTITY_NUMBER" in {one["code"] for one in document["problems"]}


def test_help_defines_each_word_once(run: Run) -> None:
    text = run("--help").out
    words = text[text.index("\nwords\n") : text.index("\nexit codes\n")].strip().splitlines()[1:]
    defined = [line[2:15].strip() for line in words]
    for word in (
        "port",
        "rail",
        "own GID",
        "foreign GID",
        "group",
        "policy file",
        "bare word",
        "withheld",
        "linger",
    ):
        assert defined.count(word) == 1
    assert len(words) <= 10
    assert "--explain [CODE]" in text
