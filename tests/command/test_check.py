"""--check: on a healthy node every line is ok; each defect turns its line, and says what to do."""

from __future__ import annotations

import gzip
import os
import platform
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from sglang_roce_entry import __version__
from sglang_roce_entry.host.snapshot.write import pack
from tests.command.conftest import clean_environment
from tests.healthy import LEADER, healthy
from tests.packaged import PACKAGED, folder
from tests.trees import Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Ran, Run

MODEL = ("--model-path", "/models/deepseek")
NIC = "ConnectX-7 (0x15b3:0x1021)"


def _items(ran: Ran, name: str) -> list[dict[str, str]]:
    return [item for item in ran.document["items"] if item["name"] == name]


def test_a_healthy_node(run: Run) -> None:
    ran = run("--check=json", *MODEL, node=healthy())
    document = ran.document
    assert list(document) == ["format", "head", "items", "in_use", "exit_code"]
    assert document["format"] == 1
    assert document["in_use"] is None
    assert ran.code == document["exit_code"] == 0
    assert ran.err == ""
    for item in document["items"]:
        assert list(item) == ["name", "status", "evidence", "remedy"]
        assert item["evidence"]
        assert item["remedy"] == ""
    by_status = {item["name"]: item["status"] for item in document["items"]}
    # Only what a recording cannot have is left out, and named.
    assert {name for name, status in by_status.items() if status != "ok"} == {
        "leader port",
        "path mtu",
        "loopback",
        "in use",
    }
    assert all(by_status[name] == "skip" for name in ("leader port", "path mtu", "loopback", "in use"))
    assert set(by_status) >= {
        "identity", "gpus", "command", "hca", "verbs", "gid", "link", "rate", "mtu", "pci link", "congestion",
        "memlock", "shm", "gpudirect", "dns", "hostname", "interface", "own address", "proxy", "variables",
        "nccl file", "nccl log", "sglang", "nccl", "torch", "image",
    }  # fmt: skip


def test_evidence_of_a_healthy_node(run: Run) -> None:
    ran = run("--check", *MODEL, node=healthy())
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[-1] == "A launch would go ahead; no warnings."
    text = "\n".join(lines)
    driver = "mlx5_core 24.10-0.7.0, firmware 28.41.1000"
    assert f"mlx5_[0-1] ({driver}); 2 of 2 ports used" in text
    assert "2 used ports: 400 Gb/s" in text
    assert "mlx5_[0-1] 32 GT/s x16" in text
    assert "net[0-1] 4200: RoCE packets of 4096 bytes" in text
    assert "Ubuntu 22.04.5 LTS, glibc 2.35, rdma-core 39.0" in text
    # The head, then one line each: status, name, evidence; last what was not checked.
    at = lines.index("")
    assert lines[at - 1] == f"      nic          2 x {NIC}, {driver}: mlx5_[0-1]"
    assert all(line.startswith("ok    ") for line in lines[at + 1 : -3])
    assert lines[-3:] == [
        "skip  not checked  loopback, in use, leader port, path mtu: needs the live node", "", "A launch would go ahead; no warnings.",
    ]  # fmt: skip


Change = Callable[[Node], Any]


@dataclass(frozen=True)
class Defect:
    """One defect of a node: what is done to it, and the line that has to say so."""

    item: str
    evidence: str
    remedy: str
    change: Change = lambda node: None
    environ: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    code: int = 0
    node: Callable[[], Node] = healthy
    status: str = "warn"


def _file(path: str, text: str) -> Change:
    return lambda node: node.files.__setitem__(path, text)


def _check(**values: object) -> Change:
    return lambda node: node.facts["check"].update(values)


def _facts(**values: object) -> Change:
    return lambda node: node.set(**values)


def _slow_rail(node: Node) -> None:
    node.files[next(path for path in node.files if path.endswith("infiniband/mlx5_1/ports/1/rate"))] = "100 Gb/sec"


def _down_rail(node: Node) -> None:
    path = next(path for path in node.files if path.endswith("infiniband/mlx5_1/ports/1/state"))
    node.files[path] = "1: DOWN\n"


def _bare_rail(node: Node) -> None:
    node.facts["interfaces"]["net1"]["addresses"] = ["fe80::2/64"]


def _counter(name: str) -> Change:
    def change(node: Node) -> None:
        path = next(path for path in node.files if path.endswith(f"mlx5_1/ports/1/hw_counters/{name}"))
        node.files[path] = "42\n"

    return change


def _narrow_slot(node: Node) -> None:
    node.files[f"{node.pci_path('0000:19:00.0')}/current_link_width"] = "8\n"


def _no_peer_memory(driver: str, **check: object) -> Change:
    def change(node: Node) -> None:
        del node.files["/sys/module/nvidia_peermem/version"]
        node.files["/proc/driver/nvidia/version"] = driver
        node.facts["check"].update(check)

    return change


def _unresolved(node: Node) -> None:
    del node.facts["resolve"]


def _loopback_name(node: Node) -> None:
    _unresolved(node)
    node.facts["check"]["own_name"] = ["127.0.1.1"]


def _without_resolver(node: Node) -> None:
    node.files["/etc/resolv.conf"] = "search corp.example\n"


PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86\n"

DEFECTS: dict[str, Defect] = {
    "no HCA": Defect("hca", "no RDMA device is visible", "SR-IOV", node=lambda: healthy(rails=0), code=69, status="fail"),
    "verbs not given": Defect(
        "verbs", "/dev/infiniband/uverbs0 does not exist", "rdma/hca_shared_devices_a: 1",
        _facts(verbs={}), code=69, status="fail",
    ),
    "one verbs device denied": Defect(
        "verbs", "1 of 2 verbs devices open read-write; not mlx5_1 (EPERM)", "RDMA device plugin",
        _facts(verbs={"uverbs0": "ok", "uverbs1": "EPERM"}),
    ),
    "links down": Defect(
        "link", "port state is DOWN", "cable", node=lambda: healthy(state="1: DOWN"), code=69, status="fail"
    ),
    "links down where RDMA is optional": Defect(
        "hca", "no port is used: mlx5_[0-1]:1 (2 ports) PORT_NOT_ACTIVE (port state is DOWN", "cable",
        node=lambda: healthy(state="1: DOWN"), argv=("--rdma", "optional"),
    ),
    "one link down": Defect("link", "but is not used: port state is DOWN", "cable", _down_rail),
    "one rail without an address": Defect("gid", "mlx5_1:1 is up and as fast as the used ports, but is not used", "give net1 an address", _bare_rail),
    "one rail slower": Defect("rate", "mlx5_1 port 1 runs at 100 Gb/s, others at 400 Gb/s", "cable", _slow_rail),
    "small MTU": Defect(
        "mtu", "RoCE packets of 1024 bytes instead of 4096", "4192", node=lambda: healthy(mtu=1500)
    ),
    "MTUs differ": Defect(
        "mtu", "net0 4200 (RoCE 4096), net1 1500 (RoCE 1024)", "give all of them the same MTU",
        lambda node: node.facts["interfaces"]["net1"].update(mtu=1500),
    ),
    "narrow PCI slot": Defect("pci link", "mlx5_1 32 GT/s x8 of 32 GT/s x16", "slot", _narrow_slot),
    "lost packets": Defect("congestion", "mlx5_1:1 local_ack_timeout_err 42", "PFC", _counter("local_ack_timeout_err")),
    "memlock": Defect(
        "memlock", "65536 bytes", "IPC_LOCK", _facts(memlock=65536, capabilities=[]), code=69, status="fail"
    ),
    "IPC_LOCK without root": Defect(
        "memlock", "CAP_IPC_LOCK is not effective", "capabilities added to a container do not become effective for uid 1000",
        _facts(memlock=65536, capabilities=[], uid=1000), code=69, status="fail",
    ),
    "memlock where RDMA is optional": Defect(
        "memlock", "65536 bytes", "IPC_LOCK", _facts(memlock=65536, capabilities=[]), argv=("--rdma", "optional")
    ),
    "docker's shared memory": Defect("shm", "64 MiB", "emptyDir: {medium: Memory", _check(shm_bytes=64 << 20)),
    "shared memory is full": Defect("shm", "only 10 MiB is free", "hostIPC", _check(shm_free_bytes=10 << 20)),
    "no GPUDirect": Defect(
        "gpudirect", "the open kernel module of the NVIDIA driver", "modprobe nvidia-peermem", _no_peer_memory(PROPRIETARY)
    ),
    "no DMA-BUF in the image": Defect(
        "gpudirect", "rdma-core from 34 on in the image (here 28.0)", "modprobe nvidia-peermem",
        _no_peer_memory("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64", rdma_core="28.0"),
    ),
    "node's resolver": Defect(
        "dns", f"{LEADER} is not completed to", "dnsPolicy: ClusterFirstWithHostNet", _without_resolver
    ),
    "leader not looked up": Defect("leader name", "was not looked up", "a launch waits", _unresolved),
    "loopback hostname": Defect(
        "hostname", "127.0.1.1: Gloo listens on a loopback address", "/etc/hosts",
        _loopback_name,
    ),
    "HOST_IP of the node": Defect(
        "own address", "HOST_IP=192.0.2.9", "status.hostIP", _unresolved, environ={"HOST_IP": "192.0.2.9"}
    ),
    "proxy": Defect(
        "proxy", "http_proxy is set (to proxy.example) without exceptions for 127.0.0.1", "add to no_proxy: 127.0.0.1",
        _check(proxy={"variable": "http_proxy", "host": "proxy.example", "no_proxy": ".svc"}),
    ),
    "stale index": Defect(
        "variables", "NCCL_IB_GID_INDEX=1 (set in this shell) is wrong on mlx5_0:1", "remove NCCL_IB_GID_INDEX",
        environ={"NCCL_IB_GID_INDEX": "1"},
    ),
    "stale index under strict": Defect(
        "variables", "NCCL_IB_GID_INDEX=1", "remove NCCL_IB_GID_INDEX",
        environ={"NCCL_IB_GID_INDEX": "1"}, argv=("--strict",), code=69, status="fail",
    ),
    "Gloo with NCCL's grammar": Defect(
        "variables", "GLOO_SOCKET_IFNAME=^lo", "name one of", environ={"GLOO_SOCKET_IFNAME": "^lo"}
    ),
    "NCCL file": Defect(
        "nccl file", "/etc/nccl.conf sets NCCL_IB_GID_INDEX=3", "remove these lines from /etc/nccl.conf",
        _file("/etc/nccl.conf", "NCCL_IB_GID_INDEX=3\n"),
    ),
    "NCCL file with spaces": Defect(
        "nccl file", "'NCCL_DEBUG =INFO'", "write NAME=value without spaces", _file("/etc/nccl.conf", " NCCL_DEBUG =INFO\n")
    ),
    "NCCL file of Windows": Defect(
        "nccl file", "Windows line endings", "convert it: sed -i", _file("/etc/nccl.conf", "NCCL_DEBUG=INFO\r\n")
    ),
    "NCCL_CONF_FILE missing": Defect(
        "nccl file", "NCCL_CONF_FILE=/etc/none.conf: it cannot be read", "mount the file",
        environ={"NCCL_CONF_FILE": "/etc/none.conf"},
    ),
    "NCCL_DEBUG": Defect("nccl log", "NCCL_DEBUG=DEBUG is not a log level", "WARN or INFO", environ={"NCCL_DEBUG": "DEBUG"}),
    "NCCL_DEBUG_SUBSYS alone": Defect("nccl log", "has no effect", "NCCL_DEBUG=INFO", environ={"NCCL_DEBUG_SUBSYS": "NET"}),
    "ranks return": Defect(
        "sglang", "SGLANG_BLOCK_NONZERO_RANK_CHILDREN=0", "remove it",
        environ={"SGLANG_BLOCK_NONZERO_RANK_CHILDREN": "0"},
    ),
    "attention DP of 0.5.5": Defect(
        "sglang", "breaks attention DP over more than two nodes", "0.5.6",
        _facts(versions={"sglang": "0.5.5.post1", "nccl": "2.28.3"}),
        environ={"LWS_GROUP_SIZE": "4"}, argv=(*MODEL, "--enable-dp-attention", "--dp-size", "4"),
    ),
    "overwritten variable": Defect(
        "sglang", "0.5.3 overwrites NCCL_CUMEM_ENABLE", "0.5.5",
        _facts(versions={"sglang": "0.5.3", "nccl": "2.28.3"}), environ={"NCCL_CUMEM_ENABLE": "1"},
    ),
    "netifaces": Defect(
        "sglang", "SGLANG_LOCAL_IP_NIC needs the Python package netifaces", "SGLANG_HOST_IP",
        environ={"SGLANG_LOCAL_IP_NIC": "eth0"},
    ),
    "no SGLang": Defect(
        "sglang", "not installed", "in the image that has SGLang", _facts(versions={"sglang": None}), code=78, status="fail"
    ),
    "Service called sglang": Defect(
        "sglang", "SGLANG_PORT=tcp://10.0.0.1:80", "enableServiceLinks: false",
        environ={"SGLANG_PORT": "tcp://10.0.0.1:80"},
    ),
    "NCCL before 2.21": Defect(
        "nccl", "2.20.5 uses GID index 0", "2.26", _facts(versions={"sglang": "0.5.10", "nccl": "2.20.5"})
    ),
    "NCCL before 2.26": Defect(
        "nccl", "NVIDIA/nccl#1573", "2.26", _facts(versions={"sglang": "0.5.10", "nccl": "2.21.5"})
    ),
    "two NCCLs": Defect(
        "nccl", "several side by side (2.21.5, 2.28.3)", "uninstall",
        _facts(versions={"sglang": "0.5.10", "nccl": "2.21.5,2.28.3"}),
    ),
    "torch missing": Defect("torch", "torch is not", "own pins", _check(packages={})),
    "old distribution": Defect("image", "too old for current wheels", "Ubuntu 22.04", _check(glibc="2.27")),
    "old rdma-core": Defect("image", "ibv_reg_mr_iova2", "Ubuntu 22.04", _check(rdma_core="17.1")),
    "no provider": Defect(
        "verbs", "libibverbs does not list it", "ibverbs-providers",
        lambda node: node.files.update({"/etc/libibverbs.d/rxe.driver": node.files.pop("/etc/libibverbs.d/mlx5.driver")}),
        code=69, status="fail",
    ),
    "no libibverbs": Defect(
        "image", "libibverbs cannot be loaded", "libibverbs1", _facts(libibverbs="no such file"), code=69, status="fail"
    ),
    "incomplete identity": Defect(
        "identity", "incomplete identity", "--worker-index", environ={"LWS_WORKER_INDEX": ""}, code=78, status="fail"
    ),
    "unexpanded index": Defect(
        "identity", "was not expanded", "no variable X", environ={"LWS_WORKER_INDEX": "$(X)"}, code=78, status="fail"
    ),
    "GPUs that are not there": Defect(
        "gpus", "8 GPUs according to --gpus, but 4", "correct", _facts(gpus=4), argv=("--gpus", "8", *MODEL)
    ),
    "tp that does not divide": Defect(
        "command", "cannot be divided among 2 nodes", "remove --tp", argv=(*MODEL, "--tp", "15"), code=78, status="fail"
    ),
    "interface that is not there": Defect(
        "interface", "'eth9'", "eth0", argv=("--interface", "eth9"), code=78, status="fail"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(DEFECTS))
def test_each_defect_turns_its_line(run: Run, name: str) -> None:
    defect = DEFECTS[name]
    node = defect.node()
    defect.change(node)
    ran = run("--check=json", *defect.argv, node=node, environ=defect.environ)
    assert ran.code == ran.document["exit_code"] == defect.code, ran.out
    found = [item for item in _items(ran, defect.item) if item["status"] == defect.status]
    assert found, ran.out
    said = [item for item in found if defect.evidence in item["evidence"]]
    assert said, found
    assert any(defect.remedy in item["remedy"] for item in said), said
    assert "s3cr3t" not in ran.out


def test_every_warning_and_failure_has_a_remedy(run: Run) -> None:
    node = healthy(rails=0, mtu=1500)
    node.set(memlock=4096, capabilities=[], libibverbs="no", versions={"sglang": None, "nccl": "2.19.3"}, check={})
    environ = {
        "NCCL_DEBUG": "X",
        "LWS_WORKER_INDEX": "7",
        "SGLANG_BLOCK_NONZERO_RANK_CHILDREN": "0",
    }
    ran = run("--check=json", node=node, environ=environ)
    wrong = [item for item in ran.document["items"] if item["status"] in ("warn", "fail")]
    assert len(wrong) >= 5, wrong
    assert all(item["remedy"] for item in wrong), wrong


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_packaged_snapshots_pass(run: Run, name: str) -> None:
    """A pair of machines on one cable works with what it has; nothing else is to be said of the other nodes."""
    ran = run("--snapshot", name, "--check=json", *MODEL)
    assert ran.code == 0
    assert {item["status"] for item in ran.document["items"]} - {"warn"} == {"ok", "skip"}
    warned = {item["name"] for item in ran.document["items"] if item["status"] == "warn"}
    assert warned == ({"gid", "link"} if name == "gb10" else set())
    live = [item for item in ran.document["items"] if item["evidence"] == "needs the live node"]
    assert len(live) == 4


@pytest.mark.parametrize("argv", [(), MODEL, ("--rdma", "optional")])
def test_exit_code_is_that_of_the_dry_run(run: Run, argv: tuple[str, ...]) -> None:
    """Whatever is wrong: the check ends as the launch, which ends as the dry run says."""
    node = healthy(rails=0)
    environ = {"LWS_WORKER_INDEX": "9"}
    for extra in ({}, environ):
        dry = run("--dry-run=json", *argv, node=node, environ=extra)
        check = run("--check=json", *argv, node=node, environ=extra)
        assert check.code == dry.code


def test_every_problem_of_the_plan_is_said(run: Run) -> None:
    node = healthy()
    environ = {
        "NCCL_IB_HCA": "mlx5_9",
        "NCCL_SOCKET_IFNAME": "=eth7",
        "HOST_IP": "192.0.2.1",
        "SGLANG_HOST_IP": "192.0.2.2",
    }
    dry = run("--dry-run=json", *MODEL, node=node, environ=environ)
    check = run("--check=json", *MODEL, node=node, environ=environ)
    said = {item["evidence"] for item in check.document["items"]}
    assert len(dry.document["problems"]) > 3
    assert {problem["message"] for problem in dry.document["problems"]} <= said


def test_text_has_the_remedy_below_and_the_verdict_at_the_end(run: Run) -> None:
    ran = run("--check", node=healthy(rails=0), environ={"NCCL_DEBUG": "X"})
    lines = ran.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail"))
    assert lines[at + 1].strip().startswith("fix: ")
    assert lines[-1].startswith("A launch would end with exit code 69 (hca")


def test_what_is_wrong_comes_first(run: Run) -> None:
    node = healthy(rails=0)
    ran = run("--check", node=node, environ={"NCCL_DEBUG": "X"})
    assert ran.code == 69
    lines = ran.out.splitlines()
    body = lines[lines.index("") + 1 : -2]
    statuses = [line[:4].strip() for line in body if line[:4].strip()]
    assert [key for key, _ in groupby(statuses)] == ["fail", "warn", "ok", "skip"]
    assert statuses.count("skip") == 1
    json_names = [
        item["name"] for item in run("--check=json", node=node, environ={"NCCL_DEBUG": "X"}).document["items"]
    ]
    assert json_names[:3] == ["identity", "gpus", "command"], "the order of the contract is that of the subjects"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("1", "one node (group of 1, from LWS_*)"),
        ("2", "the leader of 2 nodes (sglang-0.sglang.default; from LWS_*)"),
    ],
)
def test_who_it_is_is_said_as_the_plan_says_it(run: Run, size: str, said: str) -> None:
    place = {"LWS_GROUP_SIZE": size, "LWS_WORKER_INDEX": "0"}
    items = run("--check=json", *MODEL, node=healthy(), environ=place).document["items"]
    assert [one["evidence"] for one in items if one["name"] == "identity"] == [said]
    assert f"  {said}\n" in run("--dry-run", *MODEL, node=healthy(), environ=place).out


def _virtual_functions(node: Node) -> None:
    for number in range(2, 36):
        node.hca(f"mlx5_{number}", pci=f"0000:40:{number // 8:02x}.{number % 8}").port(state="1: DOWN")


def test_like_lines_are_one_in_the_text_and_each_in_the_document(run: Run) -> None:
    node = healthy()
    _virtual_functions(node)
    ran = run("--check", *MODEL, node=node)
    (line,) = [line for line in ran.out.splitlines() if line.startswith("warn")]
    assert line == "warn  link         not used: mlx5_[2-35]:1: port state is DOWN, not ACTIVE"
    assert ran.out.endswith("A launch would go ahead; 1 warning.\n")
    warned = [
        item for item in run("--check=json", *MODEL, node=node).document["items"] if item["status"] == "warn"
    ]
    evidence = [f"not used: mlx5_{n}:1: port state is DOWN, not ACTIVE" for n in range(2, 36)]
    assert [item["evidence"] for item in warned] == evidence


def test_the_head_is_a_bug_report(run: Run) -> None:
    node = healthy()
    node.files["/proc/driver/nvidia/version"] = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U22)\n"
    )
    document = run("--check=json", *MODEL, node=node).document
    driver = "mlx5_core 24.10-0.7.0, firmware 28.41.1000"
    assert document["head"] == {
        "sglang_roce_entry": __version__,
        "live": False,
        "python": None,
        "sglang": "0.5.10",
        "nccl": ["2.28.3"],
        "torch": "2.9.1",
        "distribution": "Ubuntu 22.04.5 LTS",
        "glibc": "2.35",
        "rdma_core": "39.0",
        "kernel": "6.8.0-45-generic",
        "nvidia_driver": "570.86.15 (open kernel module)",
        "nics": [
            {"devices": ["mlx5_0", "mlx5_1"], "model": "ConnectX-7", "pci_id": "0x15b3:0x1021", "driver": driver}
        ],
        "server_pid": None,
    }
    lines = run("--check", *MODEL, node=node).out.splitlines()
    assert lines[:5] == [
        f"      versions     sglang-roce-entry {__version__} on a recording, SGLang 0.5.10, NCCL 2.28.3, torch 2.9.1",
        "      image        Ubuntu 22.04.5 LTS, glibc 2.35, rdma-core 39.0",
        "      node         kernel 6.8.0-45-generic, NVIDIA driver 570.86.15 (open kernel module)",
        f"      nic          2 x {NIC}, {driver}: mlx5_[0-1]",
        "",
    ]


def test_the_head_of_this_machine_has_no_names(run: Run) -> None:
    ran = run("--check", environ={"SGLANG_ROCE_RDMA": "off"})
    top = ran.out.partition("\n\n")[0]
    assert f"Python {platform.python_version()}" in top
    assert "kernel " in top
    assert os.uname().nodename not in top


def test_a_nic_with_another_firmware_stands_out(run: Run) -> None:
    node = healthy(rails=4)
    node.files[next(path for path in node.files if path.endswith("infiniband/mlx5_2/fw_ver"))] = "28.39.2048\n"
    nics = [line for line in run("--check", *MODEL, node=node).out.splitlines() if line.startswith("      nic ")]
    assert [line.rpartition(" ")[2] for line in nics] == ["mlx5_[0-1,3]", "mlx5_2"]
    assert "firmware 28.39.2048: mlx5_2" in nics[1]


def _on_a_terminal(tmp_path: Path, **environ: str) -> str:
    primary, secondary = pty.openpty()
    node = healthy(rails=0)
    (tmp_path / "node.tar.gz").write_bytes(pack(*node.content()))
    process = subprocess.Popen(
        [sys.executable, "-m", "sglang_roce_entry", "--snapshot", str(tmp_path / "node.tar.gz"), "--check"],
        stdout=secondary,
        env={**clean_environment(), "TERM": "xterm-256color", "NCCL_DEBUG": "X", **environ},
    )
    os.close(secondary)
    out = b""
    with suppress(OSError):  # EIO: the other end is closed
        while part := os.read(primary, 65536):
            out += part
    os.close(primary)
    assert process.wait(60) == 69
    return out.decode()


def test_colour_on_a_terminal_only(run: Run, tmp_path: Path) -> None:
    out = _on_a_terminal(tmp_path, NO_COLOR="")
    for code, word in ((31, "fail"), (33, "warn"), (32, "ok  ")):
        assert f"\n\x1b[{code}m{word}\x1b[0m  " in out
    painted = [line for line in out.splitlines() if "\x1b" in line]
    assert all(re.fullmatch(r"\x1b\[3[123]m\S+ *\x1b\[0m  [^\x1b]*", line) for line in painted), (
        "the status word only"
    )
    for plain in (
        _on_a_terminal(tmp_path, NO_COLOR="1"),
        _on_a_terminal(tmp_path, TERM="dumb"),
        run("--check", node=healthy(rails=0), environ={"TERM": "xterm-256color"}).out,
    ):
        assert "\x1b" not in plain
        assert "fail  " in plain


@pytest.mark.parametrize(
    ("name", "argv", "environ", "remedy"),
    [
        ("unknown variable", (), {"SGLANG_ROCE_HCA_WIAT": "3"}, "SGLANG_ROCE_HCA_WAIT"),
        ("setting", (), {"SGLANG_ROCE_HCA_WAIT": "soon"}, "SECONDS"),
        ("policy", ("--policy", "none.yaml"), {}, "ConfigMap"),
        ("config file", ("--model-path", "/m", "--config", "none.yaml"), {}, "ConfigMap"),
        ("snapshot", ("--snapshot", "none.tar.gz"), {}, "h20-roce"),
        ("snapshot", ("--snapshot", "truncated.tar.gz"), {}, "--save-snapshot"),
        ("snapshot", ("--snapshot", "newer"), {}, "a later one"),
    ],
)
def test_what_allows_no_plan_is_a_line_too(
    run: Run, tmp_path: Path, name: str, argv: tuple[str, ...], environ: dict[str, str], remedy: str
) -> None:
    (tmp_path / "truncated.tar.gz").write_bytes((folder() / "cx7-pod.tar.gz").read_bytes()[:-500])
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer/facts.json").write_text('{"format": 2}')
    mode = [at for at, token in enumerate(argv) if token == "--model-path"] or [len(argv)]
    ran = run(*argv[: mode[0]], "--check=json", *argv[mode[0] :], environ=environ)
    assert ran.code == ran.document["exit_code"] == 78
    assert ran.err == ""
    (item,) = ran.document["items"]
    assert (item["name"], item["status"]) == (name, "fail")
    assert remedy in item["remedy"]
    assert run(*argv[: mode[0]], "--check", *argv[mode[0] :], environ=environ).out.startswith(f"fail  {name}  ")


def test_bad_format_is_a_usage_error(run: Run) -> None:
    ran = run("--check=yaml")
    assert ran.code == 2
    assert "--check=text or --check=json" in ran.err


def test_secrets_of_the_command_do_not_appear(run: Run) -> None:
    ran = run("--check", *MODEL, "--api-key", "s3cr3t", node=healthy())
    assert "s3cr3t" not in ran.out + ran.err
    assert "--api-key '***'" in ran.out


def test_the_proxy_of_this_machine_without_its_password(run: Run, tmp_path: Path) -> None:
    environ = {
        "http_proxy": "http://user:s3cr3t@proxy.example:3128",
        "no_proxy": "localhost,127.0.0.0/8,10.0.0.0/8",
        "SGLANG_ROCE_RDMA": "off",
    }
    ran = run("--check=json", environ=environ)
    (item,) = _items(ran, "proxy")
    assert item["status"] == "ok"
    assert "http_proxy is set (to proxy.example)" in item["evidence"]
    saved = run("--save-snapshot", "node.tar.gz", environ=environ)
    assert saved.code == 0
    # A replay is about the recorded node, not about the proxy of the laptop.
    other = run("--snapshot", "node.tar.gz", "--check=json", environ={"http_proxy": "http://other.example"})
    assert _items(other, "proxy") == [item]
    for text in (ran.out, other.out, gzip.decompress((tmp_path / "node.tar.gz").read_bytes()).decode()):
        assert "s3cr3t" not in text


def test_this_machine(run: Run) -> None:
    """On whatever this is, a laptop or a builder: an answer, in time, without a traceback."""
    ran = run("--check=json")
    assert ran.code in (0, 69, 78)
    names = {item["name"] for item in ran.document["items"]}
    assert names >= {"identity", "hca", "dns", "proxy", "image", "sglang"}
    assert ran.err == ""
