"""A question to SGLang's server, and what can come of it."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_roce_entry.group.endpoint import bracketed

ANSWERED, NOTHING_LISTENS, HUNG, NOT_HTTP, UNREACHABLE = (
    "answered",
    "nothing listens",
    "hung",
    "not http",
    "unreachable",
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens, by its command line."""

    host: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        """Return ``host:port``, an IPv6 address in brackets."""
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of the question; ``status`` only with ``ANSWERED``."""

    kind: str
    detail: str
    status: int | None = None
