"""The address of an InfiniBand peer against the one that released NCCL hands to the kernel, by subnets and flags."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from sglang_roce_entry.command.command_line import parse_command_line
from sglang_roce_entry.command.settings import read_settings
from sglang_roce_entry.plan.inputs import identify, read_request
from sglang_roce_entry.plan.plan import look_and_plan
from sglang_roce_entry.plan.proof import verbs_rails
from sglang_roce_entry.verbs.addressing import address_of_peer, subnet_of
from sglang_roce_entry.verbs.messages import Offer, Rail
from tests.trees import V1, Node
from tests.verbs.subnets import DEFAULT_PREFIX, gid

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nccl.judge import Judge

PORTS, PAIRS = 24, 200
ASKED = {"NCCL_IB_SL": "3", "NCCL_IB_TC": "106", "NCCL_IB_PKEY": "0x2"}
#: The default subnet, two others, and one whose lower 16 bits are those of the default.
SUBNETS = (DEFAULT_PREFIX, DEFAULT_PREFIX | 5, 0xFEC0 << 48 | 6, 0xFEC0 << 48)
FLIDS = (0, 0x4001, 0xBFFF)


def _port(node: Node, rng: random.Random, number: int) -> tuple[dict[int, str], int, int]:
    """Add a device of one port; return its GIDs by index, its LID and its flags."""
    port = node.hca(f"mlx5_{number}", pci=f"0000:{0x10 + number:02x}:00.0").port(link_layer="InfiniBand", slots=4)
    prefix, flid = rng.choice(SUBNETS), rng.choice(FLIDS)
    lid, flags = rng.randrange(1, 0xBFFF), rng.choice((0, 0, 1))
    gids = {0: gid(prefix, number + 1)}
    if rng.random() < 0.7:
        gids[1] = gid(prefix | flid << 16, number + 1)
    for index, digits in gids.items():
        port.gid(index, ":".join(digits[place : place + 4] for place in range(0, 32, 4)), V1, None)
    node.files[f"{port.base}/lid"] = f"0x{lid:x}\n"
    node.files[f"{port.base}/flags"] = f"{flags:x}\n"
    return gids, lid, flags


def _ours(rail: Rail, own: Offer, peer: Offer, flags: int) -> dict[str, object]:
    handle = address_of_peer(rail, own, peer, flags)
    grh = handle.grh
    return {
        "is_global": handle.is_global,
        "dlid": handle.dlid,
        "sl": handle.sl,
        "pkey_index": rail.pkey_index,
        "sgid_index": grh.sgid_index,
        "hop_limit": grh.hop_limit,
        "traffic_class": grh.traffic_class,
        "dgid": bytes(grh.dgid.raw).hex(),
    }


def test_peers_are_addressed_as_nccl_does(judge: Judge, tmp_path: Path) -> None:
    rng, node = random.Random(14), Node().interface("eth0", "10.0.0.1/24")
    known = {f"mlx5_{number}": _port(node, rng, number) for number in range(PORTS)}
    host = node.set(versions={"sglang": None, "nccl": judge.release.version}).host()
    node.write(tmp_path)
    (tmp_path / "dev/infiniband").mkdir(parents=True)
    for number in range(PORTS):
        (tmp_path / f"dev/infiniband/uverbs{number}").touch()
    invocation = parse_command_line(("--rdma", "required", "--dry-run", "--", "--model-path", "/m"))
    request = read_request(invocation, read_settings(invocation.flags, ASKED, None), ASKED, host)
    plan, _ = look_and_plan(request, identify(request), host)
    rails = {rail.device: rail for rail in verbs_rails(plan) if rail is not None}
    assert len(rails) == PORTS
    offers = {
        name: Offer(1, 2, gids.get(rails[name].gid_index, "0" * 32), 5, 4, 5, 8256, "0" * 32, lid)
        for name, (gids, lid, _) in known.items()
    }
    pairs = [(one, other) for one, other in (rng.sample(sorted(known), 2) for _ in range(PAIRS))]
    kinds, flids = set(), set()
    for (one, other), theirs in zip(pairs, judge.vectors(tmp_path, ASKED, pairs), strict=True):
        for near, far in ((one, other), (other, one)):
            ours = _ours(rails[near], offers[near], offers[far], known[near][2])
            # Within a subnet NCCL leaves the GRH empty as well: nothing of it is sent.
            assert theirs[near] == ours, (judge.release.version, known[near], known[far])
            same = subnet_of(offers[near].gid) == subnet_of(offers[far].gid)
            kinds.add((ours["is_global"], same, bool(known[near][2])))
            flids.add(ours["is_global"] and ours["dlid"] != known[far][1])
    # Every rule is in the sample that this release knows.
    assert {(0, True, False), (1, False, False)} <= kinds or judge.release.number < (2, 22)
    assert (True in flids) == ((1, False, True) in kinds) == (judge.release.number >= (2, 22))
    assert ((1, True, True) in kinds) == (judge.release.number >= (2, 30, 7))
    assert ((0, False, False) in kinds) == (judge.release.number < (2, 22))
