"""What was asked of this run, as frozen values: the command line in its parts, and the settings.

``command/`` reads them from texts; everything after it is handed these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

#: The forms of a command line: launch SGLang, run another program ("bare word"), show something.
LAUNCH, BARE_WORD, MODE = "launch", "bare word", "mode"


@dataclass(frozen=True, slots=True)
class Invocation:
    """A parsed command line. ``rest`` is SGLang's, or the bare word with its arguments.

    ``replaced`` are the words that start SGLang itself, where the user wrote them: the launcher takes their place.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    mode: str | None = None  # "print-env", "dry-run", ...
    mode_value: str = ""
    policy: str | None = None
    snapshot: str | None = None
    rest: tuple[str, ...] = ()
    form: str = LAUNCH
    replaced: tuple[str, ...] = ()
    keep_identifiers: bool = False
    save_meeting: str | None = None  # of "rehearse": the file to write
    meeting_file: str | None = None  # of "rehearse": the file to replay


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting's value, and where each that differs from its default was written."""

    rdma: str | None = None
    strict: bool = False
    hca: str | None = None
    hca_wait: float = 60.0
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()
    family: str = "auto"
    foreign_gids: str = "refuse"
    interface: str | None = None
    leader_address: str | None = None
    group_size: str | None = None
    worker_index: str | None = None
    dist_init: int = 20000
    wait_deadline: float = 1800.0
    meeting: str = "auto"
    zmq_peers: str = "auto"
    prove_rails: str = "auto"
    on_timeout: str = "exit"
    gpus: int | None = None
    tp: str = "auto"
    probe_timeout: float | None = None
    linger: float | None = None
    log_format: str = "text"
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Return where a setting was written: ``--x-y``, ``SGLANG_ROCE_X_Y``, ``x_y in policy.yaml``."""
        return self.origins.get(key, "default")

    def by_flag(self, key: str) -> bool:
        """Return whether a setting was given as a flag, which beats the pod's own NCCL variables."""
        return self.origins.get(key, "").startswith("--")
