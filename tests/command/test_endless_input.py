"""Files and values that have no end, or unfold to one: answered soon, in little memory, in the right words."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from ipaddress import IPv4Address, ip_interface
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.fabric.candidates import view_gids
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.facts import ROCE_V2, Gid, Interface, Port
from sglang_roce_entry.problems import ConfigurationError
from tests.command.conftest import Ran, clean_environment
from tests.healthy import healthy
from tests.trees import Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run

MODEL = ("--model-path", "/m")
#: Far more than any of these takes, and far less than what never ends.
PATIENCE_S = 20.0
MEMORY_BYTES = 400 << 20


def limited(*argv: str, cwd: Path, environ: dict[str, str] | None = None) -> Ran:
    """Run the command with little memory, and no more than ``PATIENCE_S``."""
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", *argv],
        capture_output=True,
        text=True,
        env={**clean_environment(), **(environ or {})},
        cwd=cwd,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES)),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(params=["fifo.yaml", "zero.yaml"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the name of what is no file, in ``tmp_path``."""
    name = str(request.param)
    if name == "fifo.yaml":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    return name


NAMED = {
    "policy": ("--policy", "FILE", "--dry-run", *MODEL),
    "config": ("--dry-run", *MODEL, "--config", "FILE"),
    "config of a launch": (*MODEL, "--config", "FILE"),
    "config of a check": ("--check", *MODEL, "--config", "FILE"),
    "snapshot": ("--snapshot", "FILE", "--dry-run"),
}


@pytest.mark.parametrize("argv", NAMED.values(), ids=list(NAMED))
def test_a_named_file_that_is_none(tmp_path: Path, endless: str, argv: tuple[str, ...]) -> None:
    ran = limited(*(endless if word == "FILE" else word for word in argv), cwd=tmp_path)
    assert ran.code == 78
    assert endless in ran.out + ran.err
    assert "it is no regular file" in ran.out + ran.err


@pytest.mark.parametrize(
    ("name", "code"), [("NCCL_CONF_FILE", "NCCL_CONF_FILE"), ("NCCL_TOPO_FILE", "TOPOLOGY_FILE")]
)
def test_a_file_of_nccl_that_is_none(tmp_path: Path, name: str, code: str) -> None:
    """NCCL opens it as well, and hangs in every rank."""
    os.mkfifo(tmp_path / "fifo")
    for device in ("mlx5_0", "mlx5_1"):  # a topology is read of a node that has something to choose from
        (tmp_path / "sys/class/infiniband" / device / "ports/1").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="is no regular file") as failure:
        collect(live_host(str(tmp_path)), {name: "/fifo"})
    assert failure.value.code == code


def test_a_snapshot_is_not_written_to_a_fifo_that_nobody_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ran = limited("--save-snapshot", "fifo", cwd=tmp_path)
    assert (ran.code, "'fifo' cannot be written" in ran.err) == (2, True)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with open(tmp_path / "large.yaml", "wb") as file:
        file.truncate(2 << 30)
    for argv in (("--policy", "large.yaml", "--dry-run"), ("--dry-run", *MODEL, "--config", "large.yaml")):
        ran = limited(*argv, cwd=tmp_path)
        assert (ran.code, "it has more than 1 MiB" in ran.err) == (78, True), ran.err


BOMBS = {
    "lists": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{n + 1}: &a{n + 1} [{','.join([f'*a{n}'] * 9)}]\n" for n in range(9)),
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{','.join([f'*a{n}'] * 9)}]}}\n" for n in range(9)),
    "itself": "a: &a [*a]\n",
    "of an option": "x: &x [y,y,y,y,y,y,y,y]\nhost: [" + ",".join(["*x"] * 20_000) + "]\n",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_aliases_that_unfold_without_end(tmp_path: Path, name: str) -> None:
    (tmp_path / "f.yaml").write_text(BOMBS[name])
    for argv in (("--policy", "f.yaml", "--dry-run"), ("--dry-run", *MODEL, "--config", "f.yaml")):
        ran = limited(*argv, cwd=tmp_path)
        assert ran.code == 78
        assert "its aliases unfold to more than" in ran.err


def test_yaml_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("a: " + "[" * 2000)
    ran = limited("--policy", "f.yaml", "--dry-run", cwd=tmp_path)
    assert (ran.code, "nested too deeply" in ran.err) == (78, True)


def _two_hcas() -> Node:
    node = Node().interface("net0", "10.1.0.1/24").interface("net1", "10.1.1.1/24")
    for number in range(2):
        node.hca(f"mlx5_{number}", pci=f"0000:0{number + 1}:00.0").port().pair(
            f"10.1.{number}.1", f"net{number}", 2
        )
    return node.set(versions={"sglang": "0.5.10", "nccl": "2.28.3"})


@pytest.mark.parametrize(
    ("tag", "words"), [("pci", "more than 64 PCI levels"), ("cpu", "names none of this node's")]
)
def test_a_topology_of_levels_without_end(run: Run, tag: str, words: str) -> None:
    levels, node = 20_000, _two_hcas()
    buses = (f"{n >> 13:04x}:{n >> 5 & 255:02x}:{n & 31:02x}.0" for n in range(1 << 13, levels + (1 << 13)))
    inner = "".join(f'<{tag} busid="{bus}">' for bus in buses) + f"</{tag}>" * levels
    node.files["/etc/topo.xml"] = f'<system><cpu numaid="0">{inner}</cpu></system>'
    started = time.monotonic()
    ran = run("--dry-run=json", *MODEL, node=node, environ={"NCCL_TOPO_FILE": "/etc/topo.xml"})
    assert time.monotonic() - started < PATIENCE_S
    (problem,) = [one for one in ran.document["problems"] if one["code"] == "TOPOLOGY_FILE"]
    assert words in problem["message"]


def test_the_check_for_own_addresses_does_not_grow_with_their_square() -> None:
    own = [IPv4Address(0x0A000001 + n) for n in range(20_000)]
    gids = tuple(Gid(n, ip, ROCE_V2, "net0") for n, ip in enumerate(own))
    port = Port("mlx5_0", 1, 4, "ACTIVE", "Ethernet", 400.0, len(gids), gids)
    interface = Interface(
        "net0", up=True, mtu=9000, speed_mbps=0, addresses=tuple(ip_interface(f"{ip}/8") for ip in own)
    )
    started = time.process_time()
    view = view_gids(port, {"net0": interface})
    assert len(view.own) == len(own)
    assert time.process_time() - started < 3.0, "it took a minute when each was looked for in all"


def test_a_file_of_faulty_lines_is_told_in_some(run: Run) -> None:
    node = healthy()
    node.files["/etc/nccl.conf"] = "x\n" * 100_000 + "NCCL_IB_TC=106\n"
    ran = run("--dry-run=json", *MODEL, node=node)
    said = [one["message"] for one in ran.document["problems"] if one["code"] == "NCCL_FILE_LINE"]
    assert len(said) == 11
    assert said[-1].startswith("/etc/nccl.conf has 99990 more lines of this kind")
    assert len(ran.out) < 100_000
