"""How a run ends that does not exec SGLang: two lines, a termination message, a pause, an exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from sglang_roce_entry.command.settings import parse_duration_s, readable_settings
from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.invocation import BARE_WORD, Invocation
from sglang_roce_entry.launch import handover
from sglang_roce_entry.launch.steps import NOT_TOLD
from sglang_roce_entry.log import Log
from sglang_roce_entry.output import one_line
from sglang_roce_entry.plan.inputs import Request, as_problem, identify, read_request
from sglang_roce_entry.problems import EntryError, Problem, UsageError, errors_first
from sglang_roce_entry.server.redaction import masked_failure

_KUBERNETES_LINGER_S = 15.0
#: What a group is found by: where one of these cannot be read, nobody can be told.
_FOUND_BY = frozenset({"leader_address", "group_size", "worker_index", "dist_init"})


def asked_or_told(
    ask: Callable[[], Request], invocation: Invocation, environ: Mapping[str, str], host: Host, log: Log
) -> Request:
    """Return what ``ask`` does, or what tells this pod's group why it raises ``EntryError``; else raise that."""
    try:
        return ask()
    except EntryError as failure:
        instead = _told_instead(masked_failure(failure), invocation, environ, host, log)
        if instead is None:
            raise
        return instead


def _told_instead(
    failure: EntryError, invocation: Invocation, environ: Mapping[str, str], host: Host, log: Log
) -> Request | None:
    """Return what a pod asks for that cannot read all it was told, so that its group hears of ``failure``.

    Its group would wait for it as for a pod that is missing. ``None`` where there is no group to be told, or
    none that is to be found without what cannot be read, which is said; nor where a single word is wrong: that is
    a command which somebody tries in the pod, and no launch.
    """
    if isinstance(failure, UsageError) and len(invocation.rest) < 2:
        return None
    settings, unread = readable_settings(invocation.flags, environ, invocation.policy)
    if invocation.form == BARE_WORD or settings.meeting == "off":
        return None
    asked = invocation, replace(settings, rdma="off"), environ, host
    try:
        request = read_request(*asked)
    except EntryError:
        request = read_request(*asked, config=False)
    identity = identify(request).identity
    if identity is not None and not identity.in_group:
        return None
    if identity is None or unread & _FOUND_BY:
        log.say(NOT_TOLD)
        return None
    return replace(request, refused=as_problem(failure))


def end_launch(
    failure: EntryError,
    others: tuple[Problem, ...],
    linger_s: float,
    log: Log,
    pause: Callable[[float], None] | None = None,
) -> int:
    """Write the termination message of a launch that failed, linger, and return the exit code.

    ``others`` are the problems besides ``failure``; ``pause`` is what is done meanwhile,
    also where no time is left for it. Raises ``Interrupted``.
    """
    lines = _lines("error", failure)
    for problem in errors_first(others):
        lines += _lines(problem.severity, problem)[:1]
    handover.write_termination_log("\n".join(lines) + "\n")
    handover.linger(linger_s, log.say, pause)
    return failure.exit_code


def _lines(severity: str, problem: Problem | EntryError) -> list[str]:
    # A long value must push neither the code nor the remedy over the edge.
    return [f"{severity}: {_shortened(problem.message)} [{problem.code}]", f"fix: {_shortened(problem.hint)}"]


def _shortened(text: str, characters: int = 700) -> str:
    line = one_line(text)
    half = characters // 2
    return line if len(line) <= characters else f"{line[:half]} [...] {line[-half:]}"


def linger_s(chosen: float | None, environ: Mapping[str, str]) -> float:
    """Return how long a fatal error lingers: as ``chosen``, else long enough to be read in Kubernetes."""
    if chosen is not None:
        return chosen
    return _KUBERNETES_LINGER_S if "KUBERNETES_SERVICE_HOST" in environ else 0.0


def linger_without_settings_s(flags: Mapping[str, str], environ: Mapping[str, str]) -> float:
    """Return the same where the settings are wrong: this one may still be right."""
    try:
        text = flags.get("linger", "").strip() or environ.get("SGLANG_ROCE_LINGER", "").strip()
        chosen = parse_duration_s(text)
    except ValueError:
        chosen = None
    return linger_s(chosen, environ)
