"""The contracts: JSON of the dry run and of the environment, the shell form, the text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from sglang_roce_entry.report.folding import shortest_names
from sglang_roce_entry.report.log_lines import decision_lines, environment_lines
from sglang_roce_entry.report.secrets import is_secret_variable
from tests.command.conftest import Run, clean_environment
from tests.packaged import PACKAGED, h20_roce
from tests.planning import plan_of
from tests.trees import Node

MODEL = ("--model-path", "/models/deepseek", "--trust-remote-code")


def test_dry_run_document_of_the_leader(run: Run) -> None:
    ran = run("--snapshot", "h20-roce", "--dry-run=json", *MODEL)
    assert ran.code == 0
    document = ran.document
    assert list(document) == [
        "format", "identity", "ports", "environment", "argv", "wait", "problems", "exit_code",
        "gpus", "affinity", "fingerprint", "node",
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
        "network": "10.20.2.0/24",
        "mtu": 4200,
        "rail": 2,
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


def test_two_machines_on_one_cable(run: Run) -> None:
    """Both ports of the cable are up; one has 169.254/16 of the cable, the other none, which is said by name."""
    said = run("--snapshot", "gb10", "--dry-run", *MODEL).out
    assert "  rocep1s0f1:1  200   enp1s0f1np1  3      169.254.35.63\n" in said
    assert "WARNING LINK_LOCAL_FABRIC: no port has another address than a link-local one (rocep1s0f1:1" in said
    assert "WARNING RAIL_WITHOUT_ADDRESS: roceP2p1s0f1:1 is up and as fast as the used ports" in said
    assert "fix: give enP2p1s0f1np1 an address" in said
    assert said.endswith("A launch would go ahead (2 warnings).\n")


def test_the_callers_variables_win(run: Run) -> None:
    environ = {"LWS_WORKER_INDEX": "1", "LWS_GROUP_SIZE": "4"}
    document = run("--snapshot", "h20-roce", "--dry-run=json", *MODEL, environ=environ).document
    assert (document["identity"]["size"], document["identity"]["index"]) == (4, 1)
    assert document["argv"][3:5] == ["--tp-size", "32"]


def test_one_node(run: Run) -> None:
    environ = {"LWS_LEADER_ADDRESS": "", "LWS_GROUP_SIZE": "", "LWS_WORKER_INDEX": ""}
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
        "until the whole group has met on sglang-0.sglang.default port 20000",
        "--node-rank 1",
        "A launch would go ahead.",
    ):
        assert words in text, words
    assert "s3cr3t" not in text


def _functions_of_other_pods(node: Node) -> Node:
    for number in range(2, 36):
        node.hca(f"mlx5_{number}", pci=f"0000:a1:{number // 8 + 2:02x}.{number % 8}", verbs="ENOENT").port()
    return node


def test_ports_left_out_for_one_reason_are_one_line(run: Run) -> None:
    node = _functions_of_other_pods(h20_roce())
    node.hca("mlx5_36", pci="0000:a1:09.0").port(state="1: DOWN")
    text = run("--dry-run", *MODEL, node=node).out
    block = text.partition("  left out:\n")[2].partition("\n\n")[0]
    assert block.splitlines() == [
        "    mlx5_[2-35]:1 (34 ports)  NO_VERBS         /dev/infiniband/uverbs[4-37] does not exist in this container",
        "    mlx5_36:1                 PORT_NOT_ACTIVE  port state is DOWN, not ACTIVE",
    ]
    document = run("--dry-run=json", *MODEL, node=node).document
    left = [port for port in document["ports"] if not port["used"]]
    assert [port["device"] for port in left] == [f"mlx5_{number}" for number in range(2, 37)]
    assert len({port["detail"] for port in left}) == 35


def _in_two_networks() -> Node:
    node = Node()
    node.interface("lo", "127.0.0.1/8")
    for rail in range(8):
        node.hca(f"rocep{12 + rail}s0", pci=f"0000:{12 + rail:02x}:00.0").port(gbps=400).pair(
            f"10.40.{rail}.9", f"net{rail}"
        ).pair(f"172.{16 + rail}.3.2", f"net{rail}")
        node.interface(f"net{rail}", f"10.40.{rail}.9/24", f"172.{16 + rail}.3.2/31")
    return node.set(
        memlock="unlimited", versions={"sglang": "0.5.10", "nccl": "2.28.3"}, gpus=8, uid=0, libibverbs="ok"
    )


def test_like_problems_are_one_in_the_text_and_the_log_and_each_in_the_document(run: Run) -> None:
    node = _in_two_networks()
    message = (
        "rocep[12-19]s0 port 1 has addresses in several networks (10.40.[0-7].0/24, 172.[16-23].3.2/31); "
        "10.40.[0-7].0/24 is used"
    )
    text = run("--dry-run", *MODEL, node=node).out
    assert [line for line in text.splitlines() if "AMBIGUOUS_SUBNET" in line] == [
        f"  WARNING AMBIGUOUS_SUBNET: {message}"
    ]
    assert text.endswith("A launch would go ahead (1 warning).\n")
    # The modes that log problems, and a launch, say them alike.
    log = run("--print-env", node=node).err
    assert log.count("AMBIGUOUS_SUBNET") == 1
    assert f"warning: {message} [AMBIGUOUS_SUBNET]" in log
    problems = run("--dry-run=json", *MODEL, node=node).document["problems"]
    assert [one["message"].partition(" ")[0] for one in problems] == [f"rocep{12 + rail}s0" for rail in range(8)]


def test_a_number_that_differs_keeps_lines_apart(run: Run) -> None:
    """Two slow ports are two lines where their rates differ: the rate is what the line is about."""
    node = h20_roce()
    for rail, rate in ((1, 100), (2, 50)):
        path = next(path for path in node.files if path.endswith(f"mlx5_bond_{rail}/ports/1/rate"))
        node.files[path] = f"{rate} Gb/sec"
    lines = [line for line in run("--dry-run", *MODEL, node=node).out.splitlines() if "DEGRADED_LINK" in line]
    assert [line.split("runs at ")[1] for line in lines] == [
        "100 Gb/s, others at 200 Gb/s", "50 Gb/s, others at 200 Gb/s",
    ]  # fmt: skip


def test_variables_of_one_reason_are_grouped(run: Run) -> None:
    text = run("--snapshot", "h20-roce", "--dry-run", *MODEL).out
    block = text.partition("\nEnvironment\n")[2].partition("\n\n")[0]
    reasons = [line.strip() for line in block.splitlines() if line.startswith("      ")]
    assert len(reasons) == len(set(reasons)) == 5
    index = "      discovered: every port has its own RoCE v2 GID at index 3"
    assert (
        f"  MC_GID_INDEX=3\n  NCCL_IB_GID_INDEX=3\n  NVSHMEM_IB_GID_INDEX=3\n  UCX_IB_GID_INDEX=3\n{index}\n"
        in block
    )


def test_the_log_folds_alike() -> None:
    plan = plan_of(_functions_of_other_pods(h20_roce()), *MODEL)
    left = [line for line in decision_lines(plan) if line.startswith("not using ")]
    assert len(left) == 1
    assert left[0].startswith("not using mlx5_[2-35]:1 (34 ports): NO_VERBS, /dev/infiniband/uverbs[")
    assert len([line for line in decision_lines(plan) if line.startswith("using ")]) == 4
    lines = environment_lines(plan)
    index = "every port has its own RoCE v2 GID at index 3"
    assert (
        f"MC_GID_INDEX=3 NCCL_IB_GID_INDEX=3 NVSHMEM_IB_GID_INDEX=3 UCX_IB_GID_INDEX=3 (discovered: {index})"
        in lines
    )
    assert len(lines) == 5
    assigned = [
        word for line in lines if not line.startswith("not set") for word in line.partition(" (")[0].split(" ")
    ]
    assert dict(word.split("=", 1) for word in assigned) == plan.environment()


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["mlx5_0:1", "mlx5_1:1", "mlx5_3:1"], ["mlx5_[0-1,3]:1"]),
        (["mlx5_0:1", "mlx5_0:2"], ["mlx5_0:[1-2]"]),
        (["mlx5_9", "mlx5_10", "mlx5_bond_0"], ["mlx5_[9-10]", "mlx5_bond_0"]),
        (["rdmap80s0:1", "rdmap81s0:1"], ["rdmap[80-81]s0:1"]),
        (["10.40.0.0/24", "10.40.1.0/24"], ["10.40.[0-1].0/24"]),
        (["fe80::9", "fe80::10"], ["fe80::9", "fe80::10"]),
        (["0000:18:00.0", "0000:19:00.0"], ["0000:18:00.0", "0000:19:00.0"]),
        (["rail007", "rail008"], ["rail007", "rail008"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_names_are_folded_at_the_number_that_counts_up(names: list[str], folded: list[str]) -> None:
    assert shortest_names(reversed(names)) == folded


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
    assert document["argv"] == ["bash", "(2 arguments, not shown)"]
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
