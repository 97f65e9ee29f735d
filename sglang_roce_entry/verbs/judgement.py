"""What the views of two ends say about their rail: a cause, whose it is, and the direction that is concerned."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_roce_entry.verbs import layouts as ibv
from sglang_roce_entry.verbs.addressing import one_partition
from sglang_roce_entry.verbs.messages import Seen

PROVEN, LOSSY, FAILED, NOT_TRIED = "proven", "lossy", "failed", "not_tried"
OURS, THEIRS, BOTH = "ours", "theirs", "both"
#: From us to the peer, from the peer to us.
OUT, IN = "out", "in"

#: What this mechanism could not do, or was not let: nothing is known of the rail.
_UNKNOWN = frozenset(
    {
        "VERBS_FAILED",
        "QP_REFUSED",
        "NO_PROVIDER",
        "UNDECIDED",
        "PEER_SILENT",
        "PEER_STOPPED",
        "PEER_MALFORMED",
        "PEER_OTHER_LINK",
    }
)
_OF_THE_PEER = "PEER_"
#: Completions of what was not answered, and of what was posted behind it; -1: none came.
TIMED_OUT = frozenset({-1, ibv.WC_SUCCESS, ibv.WC_RETRY_EXC_ERR, ibv.WC_WR_FLUSH_ERR})
_KEY_REFUSED = frozenset({ibv.WC_REM_INV_REQ_ERR, ibv.WC_REM_ACCESS_ERR, ibv.WC_REM_OP_ERR})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a rail: the ``end`` that is to blame, or the ``direction`` of the way between them."""

    status: str
    cause: str = ""
    end: str = ""
    direction: str = ""


def judge(ours: Seen, theirs: Seen | None) -> Verdict:
    """Return the verdict on what two ends saw; of the same two, either end comes to the same.

    Of an end that stopped by itself the cause is its own. Otherwise memory decides, not completions.
    """
    by_itself = {
        end: seen.cause
        for end, seen in ((OURS, ours), (THEIRS, theirs))
        if seen is not None and seen.cause and not seen.cause.startswith(_OF_THE_PEER)
    }
    if by_itself:
        end, cause = next(iter(by_itself.items()))
        return _fault(cause, BOTH if len(set(by_itself.values())) < len(by_itself) else end)
    if theirs is None or ours.cause or theirs.cause:
        whose = THEIRS if ours.cause or theirs is None else OURS
        return _fault(ours.cause or (theirs.cause if theirs is not None else "PEER_SILENT"), whose)
    return _of_the_exchange(ours, theirs)


def _fault(cause: str, end: str) -> Verdict:
    return Verdict(NOT_TRIED if cause in _UNKNOWN else FAILED, cause, end)


def _of_the_exchange(ours: Seen, theirs: Seen) -> Verdict:
    up = ours.state_after == theirs.state_after == ibv.PORT_ACTIVE
    if not any(ours.sent) and not any(theirs.sent):
        if ours.complete and theirs.complete:
            return Verdict(PROVEN)
        if up:
            return Verdict(FAILED, "WRONG_DATA", direction=_direction(theirs.complete, ours.complete))
    for end, sender, receiver in ((THEIRS, ours, theirs), (OURS, theirs, ours)):
        # What landed was not refused: soft-RoCE answers a WRITE that is sent again with such a status too.
        if _KEY_REFUSED & set(sender.sent) and receiver.got[2] != receiver.want[2]:
            return _fault("REFUSED_KEY", end)
    for end, seen in ((OURS, ours), (THEIRS, theirs)):
        if seen.state_after not in (ibv.PORT_ACTIVE, 0):
            return _fault("LINK_DOWN", end)
        if seen.gid_after not in (seen.gid, ""):
            return _fault("GID_MOVED", end)
    for cause, message in (("NO_WAY", 0), ("LARGE_LOST", 1)):  # nothing; small packets, and of large ones none
        out, back = bool(theirs.got[message]), bool(ours.got[message])
        if not out or not back:
            way = _direction(out, back)
            return (_of_infiniband(ours, theirs, way) if message == 0 else None) or Verdict(
                FAILED, cause, direction=way
            )
    return Verdict(LOSSY, "LOSSY", direction=_direction(theirs.complete, ours.complete))


def _of_infiniband(ours: Seen, theirs: Seen, way: str) -> Verdict | None:
    """Return what the subnet manager has left undone where nothing arrives, ``None`` if that is not known."""
    without = [end for end, seen in ((OURS, ours), (THEIRS, theirs)) if seen.lid == 0]
    if without:
        return _fault("NO_LID", BOTH if len(without) > 1 else without[0])
    if ours.pkey is None or theirs.pkey is None or one_partition(ours.pkey, theirs.pkey):
        return None
    return Verdict(FAILED, "PKEY_DIFFERS", direction=way)


def _direction(out: bool, back: bool) -> str:
    """Return which way is concerned, where each passed or did not; both also where both passed."""
    return BOTH if out == back else IN if out else OUT
