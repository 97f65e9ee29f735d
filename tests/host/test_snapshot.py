"""Snapshots: what is recorded replays to the same plan; what is hostile or damaged is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.command.cli import main
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.host.check_facts import read_check_facts
from sglang_roce_entry.host.collect import collect
from sglang_roce_entry.host.facts import Libibverbs
from sglang_roce_entry.host.gpus import read_gpus
from sglang_roce_entry.host.snapshot.format import SnapshotError, packaged_names
from sglang_roce_entry.host.snapshot.read import load
from sglang_roce_entry.host.snapshot.write import pack, record
from tests.healthy import healthy
from tests.packaged import PACKAGED, folder
from tests.trees import Node

if TYPE_CHECKING:
    from pathlib import Path


def _archive(*members: tuple[tarfile.TarInfo, bytes], facts: object = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        document = json.dumps({"format": 1} if facts is None else facts).encode()
        info = tarfile.TarInfo("facts.json")
        info.size = len(document)
        tar.addfile(info, io.BytesIO(document))
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue()


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def _special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info, b""


def _nested(depth: int) -> bytes:
    return _archive((tarfile.TarInfo("sys/" + "a/" * depth + "x"), b"x"))


def _wide(count: int, depth: int) -> bytes:
    # A few kilobytes that name millions of folders.
    below = "/a" * depth
    return _archive(*((tarfile.TarInfo(f"sys/{number}{below}/x"), b"") for number in range(count)))


def _by_pax(**headers: str) -> bytes:
    info = tarfile.TarInfo("sys/x")
    info.pax_headers = headers
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT):
        buffer.write(info.tobuf(tarfile.PAX_FORMAT) + bytes(512))
    return gzip.compress(buffer.getvalue())


def _long_names(count: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8
    return gzip.compress((info.tobuf(tarfile.GNU_FORMAT) + b"sys/abc\0".ljust(512, b"\0")) * count + bytes(1024))


def _facts_text(text: str) -> bytes:
    info = tarfile.TarInfo("facts.json")
    info.size = len(text)
    return gzip.compress(info.tobuf() + text.encode().ljust((len(text) + 511) // 512 * 512, b"\0") + bytes(1024))


HOSTILE = {
    "deep path": _nested(50_000),
    "folders without end": _wide(2_000, 300),
    "long link": _archive(_link("sys/a", "b/" * 50_000 + "b")),
    "sparse file": _by_pax(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(15 << 20)}),
    "negative size": _by_pax(size="-512"),
    "size beyond all numbers": _by_pax(size="9" * 40),
    "long names without end": _long_names(5_000),
    "deep key": _archive(facts={"format": 1, "errno": {"/sys/" + "a/" * 50_000: "EIO"}}),
    "half a surrogate pair": _facts_text('{"format": 1, "files": {"/root/x": "\\ud800"}}'),
    "infinite": _facts_text('{"format": 1, "interfaces": {"e": {"up": true, "mtu": 1e999}}}'),
    "not a number": _facts_text('{"format": 1, "memlock": NaN}'),
    "huge number": _facts_text('{"format": 1, "gpus": ' + "9" * 400 + "}"),
    "absolute path": _archive((tarfile.TarInfo("/etc/passwd"), b"x")),
    "parent path": _archive((tarfile.TarInfo("sys/../../x"), b"x")),
    "absolute link": _archive(_link("sys/class", "/etc")),
    "link outside": _archive(_link("sys/class", "../../etc")),
    "link through the top": _archive(_link("sys/a/b", "../../../x")),
    "hard link": _archive(_link("sys/x", "sys/y", tarfile.LNKTYPE)),
    "character device": _archive(_special("dev/null", tarfile.CHRTYPE)),
    "block device": _archive(_special("dev/sda", tarfile.BLKTYPE)),
    "fifo": _archive(_special("dev/fifo", tarfile.FIFOTYPE)),
    "not an archive": b"hello",
    "empty file": b"",
    "truncated": _archive((tarfile.TarInfo("sys/x"), os.urandom(5000)))[:-300],
    "garbage in gzip": gzip.compress(os.urandom(2048)),
    "newer format": _archive(facts={"format": 2}),
    "no format": _archive(facts={"interfaces": {}}),
    "facts are a list": _archive(facts=[1]),
    "interfaces are a list": _archive(facts={"format": 1, "interfaces": [1]}),
    "interface without up": _archive(facts={"format": 1, "interfaces": {"eth0": {"mtu": 1}}}),
    "address is none": _archive(facts={"format": 1, "interfaces": {"e": {"up": True, "addresses": ["x"]}}}),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_or_damaged_archives_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(HOSTILE[name])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SnapshotError) as caught:
        load(str(path))
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 78
    assert sorted(tmp_path.rglob("*")) == before


def test_numbers_that_no_kernel_writes_are_not_known(tmp_path: Path) -> None:
    digits = "9" * 5_000
    node = healthy().set(versions={"sglang": digits, "nccl": digits}, open={f"/dev/nvidia{digits}": "ok"})
    for path in node.files:
        if path.endswith("mlx5_0/ports/1/rate"):
            node.files[path] = "inf Gb/sec"
        elif path.endswith("/numa_node"):
            node.files[path] = digits
    (tmp_path / "x.tar.gz").write_bytes(pack(*node.content()))
    with pytest.raises(SnapshotError, match="path of"):
        load(str(tmp_path / "x.tar.gz"))
    node.set(open={})
    (tmp_path / "x.tar.gz").write_bytes(pack(*node.content()))
    host, environ = load(str(tmp_path / "x.tar.gz"))
    assert collect(host, environ).hcas[0].ports[0].rate_gbps is None


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        block = bytes(1 << 20)
        for _ in range(300):
            stream.write(block)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(SnapshotError, match="MiB"):
        load(str(path))


def test_a_folder_with_a_link_outside_is_refused(tmp_path: Path) -> None:
    Node().write(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").symlink_to("/etc/resolv.conf")
    with pytest.raises(SnapshotError, match="outside"):
        load(str(tmp_path))


def test_a_folder_that_is_no_snapshot_is_not_walked() -> None:
    # /proc and /sys of this machine are below it, with files that never end.
    with pytest.raises(SnapshotError, match=r"has no facts\.json"):
        load("/")


def test_a_missing_one_names_the_packaged_ones() -> None:
    with pytest.raises(SnapshotError) as caught:
        load("h20-roces")
    assert "h20-roce" in caught.value.hint
    assert "cx7-pod" in caught.value.hint


def test_folder_and_archive_are_the_same(tmp_path: Path) -> None:
    node = PACKAGED["cx7-pod"]()
    node.write(tmp_path)
    from_folder, environ = load(str(tmp_path))
    from_archive, other_environ = load("cx7-pod")
    assert environ == other_environ
    assert collect(from_folder, environ) == collect(from_archive, environ)
    assert read_gpus(from_folder) == read_gpus(from_archive)


def test_unknown_keys_are_ignored_and_missing_ones_not_known(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(_archive(facts={"format": 1, "new": {"a": 1}}))
    host, environ = load(str(tmp_path / "x.tar.gz"))
    facts = collect(host, environ)
    assert facts.nccl_versions is None
    assert facts.sglang_installed is None
    assert not facts.memlock_known
    assert facts.ipc_lock is None


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_packaged_snapshots_are_what_their_description_says(name: str) -> None:
    with tarfile.open(folder() / f"{name}.tar.gz") as packaged:
        have = {m.name: (m.linkname, _content(packaged, m)) for m in packaged}
    with tarfile.open(fileobj=io.BytesIO(pack(*PACKAGED[name]().content()))) as made:
        want = {m.name: (m.linkname, _content(made, m)) for m in made}
    assert have == want


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member) if member.isreg() else None
    return stream.read() if stream else b""


def test_packaged_names() -> None:
    assert packaged_names() == ["cx7-pod", "gb10", "h20-roce"]


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_recording_a_replay_gives_the_same_facts(name: str, tmp_path: Path) -> None:
    host, environ = load(name)
    identity = {"sglang-0.sglang.default": host.answers.resolve("sglang-0.sglang.default") or []}
    asked = Libibverbs("ok", ("mlx5_0",), "told by the test")
    files, links, facts = record(
        host,
        environ,
        is_secret=lambda _name: False,
        masked=str,
        resolved=identity,
        libibverbs=asked,
        keep_identifiers=True,
    )
    path = tmp_path / "again.tar.gz"
    path.write_bytes(pack(files, links, facts))
    again, environ_again = load(str(path))
    assert environ_again == environ
    assert collect(again, environ) == collect(host, environ)
    assert again.answers.libibverbs() == asked
    assert read_gpus(again) == read_gpus(host)
    hcas = collect(host, environ).hcas
    assert read_check_facts(again, hcas, environ) == read_check_facts(host, hcas, environ)
    assert again.answers.resolve("sglang-0.sglang.default") == identity["sglang-0.sglang.default"]


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        # What only a network can answer, and the counters, which a pod without the device cannot see.
        ("h20-roce", {"workers", "ports", "loopback", "in use"}),
        ("cx7-pod", {"congestion", "leader port", "path mtu", "loopback", "in use"}),
    ],
)
def test_a_check_of_a_packaged_node_skips_only_what_cannot_be_recorded(
    name: str, skipped: set[str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["--snapshot", name, "--check=json", "--model-path", "/m"]) == 0
    items = json.loads(capsysbinary.readouterr().out)["items"]
    assert {item["name"] for item in items if item["status"] == "skip"} == skipped
    assert {item["status"] for item in items} == {"ok", "skip"}


def test_this_machine_records_and_replays(tmp_path: Path) -> None:
    host = live_host()
    environ = {"NCCL_DEBUG": "INFO", "HF_TOKEN": "s3cr3t", "NCCL_AUTH_TOKEN": "x", "MC_PASSWORD": "pw"}
    files, links, facts = record(
        host, environ, is_secret="MC_PASSWORD".__eq__, masked=str, resolved={}, keep_identifiers=True
    )
    archive = pack(files, links, facts)
    assert b"s3cr3t" not in gzip.decompress(archive)
    path = tmp_path / "here.tar.gz"
    path.write_bytes(archive)
    again, recorded = load(str(path))
    assert recorded == {"NCCL_DEBUG": "INFO"}, "what nothing here reads stays on the node"
    first, second = collect(host, environ), collect(again, environ)
    assert second.interfaces == first.interfaces
    assert second.hcas == first.hcas
    assert second.default_route_interfaces == first.default_route_interfaces
    assert second.search_domains == first.search_domains
    assert second.nccl_versions == (first.nccl_versions or ())


def test_a_number_beyond_all_numbers_is_malformed(tmp_path: Path) -> None:
    """JSON's 1e999 reads as infinity."""
    (tmp_path / "facts.json").write_text('{"format": 1, "interfaces": {"eth0": {"up": true, "mtu": 1e999}}}')
    with pytest.raises(SnapshotError, match=r"facts\.json"):
        load(str(tmp_path))


def test_a_damaged_route_is_no_route(tmp_path: Path) -> None:
    node = Node().interface("eth0", "10.0.0.1/24").default_route("eth0")
    node.files["/proc/net/route"] += "eth1\t00000000\t0100000A\tzz\t0\t0\t0\t00000000\t0\t0\t0\n"
    node.write(tmp_path)
    host, environ = load(str(tmp_path))
    assert collect(host, environ).default_route_interfaces == ("eth0",)
