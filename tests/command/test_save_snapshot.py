"""--save-snapshot and its replay: the same plan bit for bit, nothing that identifies, in a second or two."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.codes import BY_CODE
from sglang_roce_entry.host.snapshot.variables import is_recorded
from tests.command.conftest import clean_environment
from tests.healthy import LEADER, healthy
from tests.test_architecture import PACKAGE
from tests.trees import Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run

MODEL = ("--model-path", "/models/deepseek")
MAC_LINK_LOCAL = "fe80::225:9dff:fe64:c79a"
GUID = "225:9dff:fe64:c79a"
UUID = "GPU-1b2c3d4e-0000-1111-2222-333344445555"


def identified() -> Node:
    """Return a node full of what a bug report must not carry."""
    node = healthy()
    port = node.ports[0]
    port.gid(0, MAC_LINK_LOCAL, "IB/RoCE v1", "net0").gid(1, MAC_LINK_LOCAL, "RoCE v2", "net0")
    node.facts["interfaces"]["net0"]["addresses"] = ["10.1.0.1/24", f"{MAC_LINK_LOCAL}/64"]
    node.hca("ib0", pci="0000:30:00.0").port(link_layer="InfiniBand", slots=4).gid(
        0, "fe80::225:9dff:fe64:aaaa", None, None
    ).gid(1, f"fd00::{GUID}", None, None)
    node.files["/etc/podinfo/labels"] = 'leaderworkerset.sigs.k8s.io/worker-index="1"\nteam="s3cr3t-team"\n'
    node.files["/etc/podinfo/annotations"] = (
        'kubectl.kubernetes.io/last-applied-configuration="{\\"env\\": \\"s3cr3t-password\\"}"\n'
        'leaderworkerset.sigs.k8s.io/size="2"\n'
    )
    node.files["/etc/nccl.conf"] = "# by admin@s3cr3t.example\nNCCL_IB_TC=106\nHF_TOKEN=s3cr3t-token\n"
    node.files["/etc/resolv.conf"] = (
        "# written on s3cr3t-host\nsearch default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n"
    )
    return node


ENVIRON = {
    "HF_TOKEN": "s3cr3t-token",
    "MC_PASSWORD": "s3cr3t-password",
    "MC_METADATA_SERVER": "redis://:s3cr3t@h:6379",
    "MOONCAKE_PRIVATE_KEY": "s3cr3t",
    "SGLANG_PASSWORD_1": "s3cr3t",
    "SGLANG_S3_SECRET_KEY": "s3cr3t",
    "UCX_TLS": "s3cr3t-but-read-by-nothing-here",
    "HOSTNAME": "s3cr3t-host",
    "NCCL_DEBUG_FILE": "/logs/x?token=s3cr3t",
    "UCX_NET_DEVICES": "http://me:s3cr3t@host",
    "NCCL_IB_TC": "106",
    "NVIDIA_VISIBLE_DEVICES": f"{UUID},{UUID[:-1]}6",
    "SGLANG_API_KEY": "s3cr3t-key",
}


def _members(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            found[member.name] = stream.read() if stream else member.linkname.encode()
    return found


def test_nothing_that_identifies(run: Run, tmp_path: Path) -> None:
    ran = run("--save-snapshot", "node.tar.gz", node=identified(), environ=ENVIRON)
    assert ran.code == 0, ran.err
    assert "no host name, no MAC, GUID or GPU UUID" in ran.err
    archive = (tmp_path / "node.tar.gz").read_bytes()
    plain = gzip.decompress(archive)
    for secret in (b"s3cr3t", GUID.encode(), b"9dff:fe64", b"1b2c3d4e", os.uname().nodename.encode() + b"\n"):
        assert secret not in plain, secret
    document = json.loads(_members(archive)["facts.json"])
    # What belonged together still does, and what decides is kept.
    assert document["environ"]["NVIDIA_VISIBLE_DEVICES"].split(",")[0] != UUID
    assert len(set(document["environ"]["NVIDIA_VISIBLE_DEVICES"].split(","))) == 2
    address, masked = document["interfaces"]["net0"]["addresses"]
    assert address == "10.1.0.1/24"
    number = int(IPv6Address(masked.removesuffix("/64"))) ^ 0xFE80 << 112
    assert 0 < number < 10
    gids = {name: data for name, data in _members(archive).items() if name.endswith("mlx5_0/ports/1/gids/1")}
    assert list(gids.values()) == [f"fe80:0000:0000:0000:0000:0000:0000:{number:04x}".encode()]
    assert document["files"] == {"/etc/nccl.conf": "#\nNCCL_IB_TC=106\n#\n"}


def test_a_snapshot_holds_each_variable_that_something_here_reads() -> None:
    """Each constant of a decision that looks like a variable of a library, but for the codes of problems."""
    names = {
        node.value
        for room in ("check", "fabric", "group", "host", "plan", "server")
        for path in (PACKAGE / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    pattern = re.compile(
        r"(CUDA|GLOO|HIP|LWS|MC|MOONCAKE|NCCL|NVIDIA|NVSHMEM|POD|ROCR|SGLANG|UCX)_[A-Z0-9_]*[A-Z0-9]"
    )
    variables = {name for name in names if pattern.fullmatch(name)} - set(BY_CODE) | {"NCCL_CONF_FILE"}
    assert not [name for name in sorted(variables) if not is_recorded(name)]


def test_identifiers_are_kept_when_asked(run: Run, tmp_path: Path) -> None:
    ran = run("--save-snapshot", "node.tar.gz", "--keep-identifiers", node=identified(), environ=ENVIRON)
    assert "MACs, GUIDs and GPU UUIDs as they are" in ran.err
    plain = gzip.decompress((tmp_path / "node.tar.gz").read_bytes())
    assert b"9dff:fe64" in plain
    assert UUID.encode() in plain
    assert b"s3cr3t" not in plain, "a secret is not asked for"


def test_keeping_identifiers_is_about_snapshots(run: Run) -> None:
    assert run("--dry-run", "--keep-identifiers").code == 2


@pytest.mark.parametrize(
    "mode", ["--dry-run", "--dry-run=json", "--print-env", "--print-env=json", "--check=json"]
)
def test_replay_is_the_same_bit_for_bit(run: Run, tmp_path: Path, mode: str) -> None:
    node = identified()
    node.set(environ={**node.facts.get("environ", {}), "NCCL_IB_TC": "106"})
    environ = {"HF_TOKEN": "s3cr3t"}
    saved = run("--save-snapshot", "node.tar.gz", node=node, environ=environ)
    assert saved.code == 0, saved.err
    first = run(mode, *MODEL, node=node, environ=environ)
    again = run("--snapshot", "node.tar.gz", mode, *MODEL)
    assert again.code == first.code
    assert again.out == first.out


def test_to_stdout_where_nothing_can_be_written(run: Run, tmp_path: Path) -> None:
    """A pod with a read-only root: kubectl exec POD -- ... --save-snapshot - > node.tar.gz."""
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", "--save-snapshot", "-"],
        capture_output=True, env=clean_environment(), check=True, timeout=60,
    )  # fmt: skip
    (tmp_path / "node.tar.gz").write_bytes(done.stdout)
    assert b"recorded" in done.stderr
    assert set(run("--snapshot", "node.tar.gz", "--dry-run=json").codes) <= {"SGLANG_MISSING"}
    assert run("--save-snapshot", "/proc/none/node.tar.gz").code == 2
    again = run("--snapshot", "node.tar.gz", "--save-snapshot", "again.tar.gz")
    assert again.code == 0
    # Recording what was recorded changes nothing.
    first, second = done.stdout, (tmp_path / "again.tar.gz").read_bytes()
    assert (
        json.loads(_members(first)["facts.json"])["check"] == json.loads(_members(second)["facts.json"])["check"]
    )


def _children_s() -> float:
    """Return the processor time of all commands so far."""
    times = os.times()
    return times.children_user + times.children_system


def production_node() -> Node:
    """Return a node with 16 HCAs of 256 GIDs each and 8 GPUs, half of each table in use."""
    node = Node()
    node.interface("eth0", "10.0.0.12/24", mtu=1500)
    node.default_route("eth0")
    for rail in range(16):
        root = f"pci0000:{rail:02x}/0000:{rail:02x}:01.0"
        hca = node.hca(f"mlx5_{rail}", pci=f"0000:{rail:02x}:02.0", bridge=root, netdevs=(f"net{rail}",))
        port = hca.port(gbps=400, slots=256)
        port.pair(f"fe80::{rail + 1}", f"net{rail}").pair(f"10.1.{rail}.1", f"net{rail}")
        for other in range(4, 128, 2):
            port.pair(f"10.2.{rail}.{other}", f"net{rail}", other)
        node.interface(f"net{rail}", f"10.1.{rail}.1/24", f"fe80::{rail + 1}/64")
        if rail % 2 == 0:
            node.gpu(f"0000:{rail:02x}:03.0", root)
    return node.set(
        memlock="unlimited",
        resolve={LEADER: ["10.0.0.11"]},
        open={f"/dev/nvidia{minor}": "ok" for minor in range(8)},
        versions={"sglang": "0.5.10", "nccl": "2.28.3"},
        environ={"LWS_LEADER_ADDRESS": LEADER, "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"},
    )


def test_a_production_node_in_seconds_and_a_few_hundred_kilobytes(run: Run, tmp_path: Path) -> None:
    began_s = _children_s()
    saved = run("--save-snapshot", "node.tar.gz", node=production_node())
    assert saved.code == 0, saved.err
    replayed = run("--snapshot", "node.tar.gz", "--dry-run=json", *MODEL)
    spent_s = _children_s() - began_s
    assert replayed.code == 0
    assert len([port for port in replayed.document["ports"] if port["used"]]) == 16
    # Processor time of both runs, start-up included: other load on this machine does not count.
    assert spent_s < 6, spent_s
    assert (tmp_path / "node.tar.gz").stat().st_size < 400_000


def test_secrets_in_a_file_of_nccl_stay_on_the_node(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nccl.conf").write_text(
        "NCCL_DEBUG=INFO\nMC_API_KEY=s3cr3t\nSGLANG_TOKEN=s3cr3t\nNCCL_TOPO_FILE=https://me:s3cr3t@host/x\n"
    )
    ran = run("--save-snapshot", "node.tar.gz", environ={"NCCL_CONF_FILE": str(tmp_path / "nccl.conf")})
    assert ran.code == 0
    plain = gzip.decompress((tmp_path / "node.tar.gz").read_bytes())
    assert b"NCCL_DEBUG=INFO" in plain
    assert b"s3cr3t" not in plain
