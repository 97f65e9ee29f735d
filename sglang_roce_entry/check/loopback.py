"""Each used HCA, proven against itself: what a launch would only find out with its first connection."""

from __future__ import annotations

from sglang_roce_entry.check.items import CheckItem, Examined, listed, ok, skip, warn
from sglang_roce_entry.plan.infiniband import infiniband_rails
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.plan.proof import verbs_rail
from sglang_roce_entry.report.folding import names_by_text
from sglang_roce_entry.verbs.judgement import PROVEN
from sglang_roce_entry.verbs.messages import Rail
from sglang_roce_entry.verbs.proof.looped import Loop

_NAME = "loopback"
_AGAIN = (
    "run --check again; if it stays so, update the NIC's firmware and rdma-core, or leave the port out with --hca"
)
#: What to do, by cause. The kernel's own answer stands in the evidence.
_REMEDIES = {
    "MEMLOCK": "add securityContext.capabilities.add: [IPC_LOCK], or raise the memlock limit of the runtime",
    "GID_MOVED": "the addresses have just changed: run --check again",
    "NO_GID": "the addresses have just changed: run --check again",
    "GID_REFUSED": "the kernel does not send from that GID (RoCE v1, or its interface is gone): see show_gids",
    "PORT_DOWN": "check the node's cable, transceiver and switch port (rdma link)",
    "LINK_DOWN": "check the node's cable, transceiver and switch port (rdma link)",
    "NO_SM": "see that a subnet manager runs and reaches this port (ibstat, sminfo)",
    "NO_LID": "see that a subnet manager runs and gives this port a LID (ibstat, sminfo)",
    "LID_REFUSED": "see that a subnet manager has given this port a LID (ibstat)",
    "PKEY_REFUSED": "set NCCL_IB_PKEY to a slot of the port's P_Key table, or leave it",
    "PKEY_DIFFERS": "make the port a full member of the partition that NCCL_IB_PKEY names (subnet manager)",
    "NO_PROVIDER": "install the card's verbs provider in the image, of the same release as its libibverbs",
    "DEVICE_DENIED": "grant the device to the pod (RDMA device plugin)",
    "NO_DEVICE_NODE": "give the device to the pod (RDMA device plugin), or mount /dev/infiniband",
    "CHILD_FAILED": "run ibv_rc_pingpong -g INDEX on the port in the image; NCCL makes the same calls",
}


def rails(plan: Plan) -> tuple[Rail, ...]:
    """Return the used ports, of RoCE or InfiniBand, each with the index that NCCL will use on it."""
    rows = plan.choice.used_rows or infiniband_rails(plan)
    return tuple(rail for row in rows if (rail := verbs_rail(plan, row)) is not None)


def items(examined: Examined) -> tuple[CheckItem, ...]:
    """Return the lines on what was tried; nothing where no port is used."""
    choice = examined.plan.choice
    if not choice.used and (choice.plugin is not None or not choice.infiniband):
        return ()
    if not examined.live:
        return (skip(_NAME, "needs the live node"),)
    good = [(_label(loop), _good(loop)) for loop in examined.loops if loop.verdict.status == PROVEN]
    lines = [_not_proven(loop) for loop in examined.loops if loop.verdict.status != PROVEN]
    if good:
        lines.append(ok(_NAME, listed([f"{labels} {text}" for labels, text in names_by_text(good)])))
    return tuple(lines)


def _label(loop: Loop) -> str:
    return f"{loop.rail.device}:{loop.rail.port}"


def _good(loop: Loop) -> str:
    return f"carried 64 bytes and full packets of {loop.seen.mtu_bytes} through the HCA to itself"


def _not_proven(loop: Loop) -> CheckItem:
    if loop.verdict.cause == "UNDECIDED":
        return skip(_NAME, f"{_label(loop)}: {loop.seen.detail}")
    return warn(_NAME, *_wrong(loop))


def _wrong(loop: Loop) -> tuple[str, str]:
    seen, cause = loop.seen, loop.verdict.cause
    shown = f"completions {', '.join(map(str, seen.sent))}" if seen.want[0] and not seen.cause else ""
    detail = "; ".join(text for text in (seen.detail, shown) if text)
    evidence = f"{_label(loop)} did not carry a message to itself: {cause}{f' ({detail})' if detail else ''}"
    return evidence, _REMEDIES.get(cause, _AGAIN)
