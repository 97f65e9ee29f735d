"""What NCCL in the running server knows of the group's ranks: the line ``ranks``."""

from __future__ import annotations

from sglang_roce_entry.check.items import CheckItem, ok, skip, warn
from sglang_roce_entry.server.probe.ranks import Ranks, judge

_NAME = "ranks"
_RECREATE = (
    "the server hangs with its communicator: recreate the group (LeaderWorkerSet does so when one of its pods is "
    "deleted), and look at that node: dmesg, nvidia-smi, the pod's last log"
)
_AGAIN = "look again: after 60 s without a word NCCL considers them dead; until then it may be a long load"


def items(ranks: Ranks | None) -> tuple[CheckItem, ...]:
    """Return the line; none without a running server."""
    if ranks is None:
        return ()
    status = ranks.status
    if status is None:
        return (skip(_NAME, ranks.why),)
    verdict = judge(ranks)
    evidence = "; ".join([verdict.reason, *verdict.details])
    if not verdict.passed:
        return (warn(_NAME, evidence, _RECREATE),)
    if (status.missing_count or status.silent) and not ranks.elastic:
        return (warn(_NAME, evidence, _AGAIN),)
    return (ok(_NAME, evidence),)
