"""The kinds of a probe, and the variable that limits it: what the command line must know without loading one."""

from __future__ import annotations

STARTUP, READINESS, LIVENESS, RANKS = "startup", "readiness", "liveness", "ranks"
OF_HEALTH = (STARTUP, READINESS, LIVENESS)
KINDS = (*OF_HEALTH, RANKS)
#: The only setting of a probe; where it is set all are read.
TIMEOUT_VARIABLE = "SGLANG_ROCE_PROBE_TIMEOUT"


def kinds_of(text: str) -> tuple[str, ...] | None:
    """Return the kinds of ``liveness`` or ``liveness,ranks``; ``None`` if one of them is none."""
    kinds = tuple(dict.fromkeys(text.split(",")))
    return kinds if all(kind in KINDS for kind in kinds) else None
