"""The failures that end a run: one exception, one exit code each, reported in two lines."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

OK = 0
UNHEALTHY = 1
USAGE = 2
RDMA_UNUSABLE = 69
INTERNAL = 70
CONFIGURATION = 78
DEADLINE = 124
CANNOT_EXECUTE = 126
NOT_FOUND = 127

#: What ``--help`` and the README show of them; ``codes.py`` has more.
EXIT_CODES: tuple[tuple[str, str], ...] = (
    ("0", "ok"),
    ("1", "--probe: not healthy"),
    ("2", "usage: unknown flag, bad value, no SGLang arguments; or stdout cannot be written"),
    (
        "69",
        "RDMA is required but unusable: no HCA, no verbs device, no own GID, memlock, no libibverbs or provider",
    ),
    ("70", "a defect of this program, please report it"),
    ("78", "identity, policy, variable, tp or SGLang missing or wrong; a TCP port is taken"),
    ("124", "the group did not meet, or the leader (or its own name) was not reachable, in time"),
    ("126/127", "the command cannot be executed / was not found"),
    ("130/143", "interrupted by SIGINT / SIGTERM"),
    ("141", "the reader of stdout is gone (| head); nothing is wrong"),
)


class EntryError(Exception):
    """A failure with what is wrong (the value in it), what to do, and the exit code."""

    def __init__(self, code: str, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageError(EntryError):
    """The command line itself is wrong."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__("USAGE", message, hint, USAGE)


class ConfigurationError(EntryError):
    """A setting, the policy file or the identity is wrong."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(code, message, hint, CONFIGURATION)


_NO_MEMORY = "no memory is left"
#: A library that does not fit into memory is an ImportError (glibc's ``dl-load.c``).
_UNMAPPED = ("failed to map segment", "cannot allocate memory", "cannot map zero-fill pages")


def as_failure(raised: Exception) -> EntryError:
    """Return what was raised as a failure; anything else is a defect of this program, with its place."""
    if isinstance(raised, EntryError):
        return raised
    used_up = _used_up(raised)
    if used_up is not None:
        hint = (
            "look at this container's limits: cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max; ulimit -a; "
            "raise resources.limits.memory, the pod's pids limit (kubelet podPidsLimit) or the ulimit"
        )
        return EntryError("LIMIT_REACHED", f"a limit of this container is reached: {used_up}", hint, CONFIGURATION)
    place = raised.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "?"
    return EntryError(
        "INTERNAL",
        f"internal error at {where}: {type(raised).__name__}: {raised}",
        "report it with the output of sglang-roce-entry --save-snapshot node.tar.gz",
        INTERNAL,
    )


def _used_up(raised: Exception) -> str | None:
    """Return what the kernel refuses; ``None`` where the failure is something else."""
    if isinstance(raised, RuntimeError) and "can't start new thread" in str(raised):
        return f"no further process or thread may be started, or {_NO_MEMORY}"  # pthread_create: EAGAIN for both
    unmapped = isinstance(raised, ImportError) and any(words in str(raised).lower() for words in _UNMAPPED)
    refused = isinstance(raised, OSError) and raised.errno == errno.ENOMEM
    return _NO_MEMORY if unmapped or refused or isinstance(raised, MemoryError) else None


class Interrupted(BaseException):
    """SIGTERM or SIGINT. Not an ``Exception``, so that no handler in between swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def name(self) -> str:
        """The signal's name, by its number on Linux."""
        return {2: "SIGINT", 15: "SIGTERM"}.get(self.signal_number, f"signal {self.signal_number}")

    @property
    def exit_code(self) -> int:
        """The code a shell would report for a death by this signal."""
        return 128 + self.signal_number


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong that a plan found. ``exit_code`` is that of an error, or of a warning under ``strict``."""

    severity: str  # "error" or "warning"
    code: str
    message: str
    hint: str
    exit_code: int = OK
    #: A wrong or ambiguous value: an error under ``strict``.
    value: bool = False

    @property
    def fatal(self) -> bool:
        """Whether a launch ends here."""
        return self.severity == "error"


def error(code: str, message: str, hint: str, exit_code: int) -> Problem:
    """Return a problem that ends a launch with ``exit_code``."""
    return Problem("error", code, message, hint, exit_code)


def warning(code: str, message: str, hint: str) -> Problem:
    """Return a problem that is only reported."""
    return Problem("warning", code, message, hint)


def rdma_value(code: str, message: str, hint: str) -> Problem:
    """Return a warning about a value of the fabric: under ``strict`` RDMA is unusable (69)."""
    return Problem("warning", code, message, hint, RDMA_UNUSABLE, value=True)


def config_value(code: str, message: str, hint: str) -> Problem:
    """Return a warning about any other value: under ``strict`` the configuration is wrong (78)."""
    return Problem("warning", code, message, hint, CONFIGURATION, value=True)


def config_error(code: str, message: str, hint: str) -> Problem:
    """Return a problem with the configuration that ends a launch (78)."""
    return error(code, message, hint, CONFIGURATION)


def shortened(texts: Sequence[str], most: int) -> str:
    """Return texts in one, the first ``most`` of them and an ellipsis for the rest."""
    return ", ".join(texts[:most]) + (" ..." if len(texts) > most else "")


def errors_first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems in the order in which they are told: what ends a launch before what does not."""
    return tuple(sorted(problems, key=lambda one: not one.fatal))


def deciding(problems: Iterable[Problem]) -> Problem | None:
    """Return the first error, which decides the exit code; ``None`` if nothing ends a launch."""
    return next((problem for problem in problems if problem.fatal), None)


def hardened(problems: tuple[Problem, ...], *, strict: bool) -> tuple[Problem, ...]:
    """Return the problems with every warning about a value made an error, if ``strict``."""
    return tuple(replace(one, severity="error") if strict and one.value else one for one in problems)
