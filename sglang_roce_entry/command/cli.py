"""The command: order the stages, print or act, and turn every failure into two lines and an exit code."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Mapping, Sequence

from sglang_roce_entry import problems as errors
from sglang_roce_entry.check.outcome import rendered
from sglang_roce_entry.check.run import refusal
from sglang_roce_entry.command.command_line import Invocation, asks_for_a_mode, parse_command_line
from sglang_roce_entry.command.manual import help_text, version_text
from sglang_roce_entry.command.modes import run_mode
from sglang_roce_entry.command.settings import Settings, parse_duration_s, read_settings
from sglang_roce_entry.host.collect import live_host
from sglang_roce_entry.host.snapshot.snapshot import load
from sglang_roce_entry.launch import handover
from sglang_roce_entry.launch.handover import SignalGuard
from sglang_roce_entry.launch.launch import Launcher, PlanRefused, gather
from sglang_roce_entry.log import Log, one_line, squeezed, write_stdout
from sglang_roce_entry.plan.plan import BARE_WORD
from sglang_roce_entry.problems import EntryError, Interrupted
from sglang_roce_entry.server.probe.kinds import Verdict, cannot_tell, run_probe

_KUBERNETES_LINGER_S = 15.0
_GARBAGE_AFTER = 50_000  # objects; a long wait comes to it in the end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (the process's own by default); return the exit code."""
    # What a start makes stays until its end: to look for garbage in it costs a twentieth and finds none.
    gc.set_threshold(_GARBAGE_AFTER)
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _fill_standard_descriptors()
    arguments = tuple(sys.argv[1:] if argv is None else argv)
    environ = dict(os.environ)
    run = _Run(environ)
    try:
        return _outcome(run, arguments)
    except Interrupted as interrupted:  # also while a failure was told
        run.stand_down()
        run.log.say(f"ended by {interrupted.name}, exit code {interrupted.exit_code}")
        return interrupted.exit_code
    except KeyboardInterrupt:
        return 128 + 2  # a mode: it installs no handlers
    except BrokenPipeError:
        # The reader of stdout is gone (| head): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13


def _outcome(run: _Run, arguments: tuple[str, ...]) -> int:
    try:
        return run.start(arguments)
    except EntryError as failure:
        return run.fail(failure)
    except BrokenPipeError:
        raise
    except Exception as defect:  # noqa: BLE001 - no traceback reaches a user, whatever went wrong
        return run.fail(_internal(defect))


def _fill_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2, before a socket or a device gets that number and is written to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _internal(defect: Exception) -> EntryError:
    """Return a defect of this program as a failure, with the place where it showed."""
    place = defect.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "?"
    return EntryError(
        "INTERNAL",
        f"internal error at {where}: {type(defect).__name__}: {defect}",
        "report it with the output of sglang-roce-entry --save-snapshot node.tar.gz",
        errors.INTERNAL,
    )


class _Run:
    """One run of the command, with what is needed to end it decently at any point."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.log = Log("json" if environ.get("SGLANG_ROCE_LOG_FORMAT") == "json" else "text")
        self._environ = environ
        self._settings: Settings | None = None
        self._invocation: Invocation | None = None
        self.guard: SignalGuard | None = None
        self._launching = True
        self._arguments: tuple[str, ...] = ()

    def start(self, arguments: tuple[str, ...]) -> int:

        self._arguments = arguments
        self._launching = not _names_a_mode(arguments)
        if self._launching:
            self.guard = SignalGuard()
            self.guard.install()
        invocation = self._invocation = parse_command_line(arguments)
        if invocation.mode == "help":
            return _print(help_text())
        if invocation.mode == "version":
            return _print(version_text())
        return self._with_settings(invocation)

    def _with_settings(self, invocation: Invocation) -> int:

        environ = dict(self._environ)
        if invocation.mode == "probe":
            return self._probe(invocation, read_settings(invocation.flags, environ, invocation.policy, _read_text))

        self._launching = invocation.mode is None and invocation.form != BARE_WORD
        if invocation.snapshot is not None:
            host, recorded = load(invocation.snapshot)
            environ = {**recorded, **environ}
        else:
            host = live_host()
        settings = read_settings(invocation.flags, environ, invocation.policy, _read_text)
        self._settings = settings
        self.log = Log(settings.log_format)

        if invocation.mode is None:
            inputs, stages = gather(invocation, settings, environ, host)
            Launcher(inputs, stages, host, self.log, self.guard).run()

        return run_mode(invocation, settings, environ, host, self.log)

    @staticmethod
    def _probe(invocation: Invocation, settings: Settings) -> int:

        return _probed(run_probe(invocation.mode_value, invocation.rest, settings.probe_timeout))

    def fail(self, failure: EntryError) -> int:
        """Say what is wrong, leave it in the termination log, linger, and return the exit code."""

        if self._invocation is not None and self._invocation.mode == "check" and failure.code != "OUTPUT":
            _print(rendered(refusal(failure), self._invocation.mode_value, self._environ))
            return failure.exit_code
        if self._invocation is not None and self._invocation.mode == "probe":
            return _probed(cannot_tell(self._invocation.mode_value, f"{failure.message}; {failure.hint}"))
        said = isinstance(failure, PlanRefused)
        if not said:
            self.log.problem(failure)
        if not self._launching or self._was_to_be_a_mode():
            return failure.exit_code
        handover.write_termination_log(_termination_text(failure))
        try:
            handover.linger(self._linger_s(), self.log.say, time.sleep)
        except Interrupted as interrupted:
            self.stand_down()
            return interrupted.exit_code
        return failure.exit_code

    def _was_to_be_a_mode(self) -> bool:
        if self._invocation is not None:
            return False

        return asks_for_a_mode(self._arguments)

    def stand_down(self) -> None:
        """Raise no interruption any more: one has come through, and the run ends."""
        if self.guard is not None:
            self.guard.stand_down()

    def _linger_s(self) -> float:
        chosen = self._settings.linger if self._settings is not None else None
        if chosen is None and self._settings is None:
            # The settings themselves were wrong: this one may still be right.

            try:
                flag = self._invocation.flags.get("linger", "").strip() if self._invocation is not None else ""
                chosen = parse_duration_s(flag or self._environ.get("SGLANG_ROCE_LINGER", "").strip())
            except ValueError:
                chosen = None
        if chosen is not None:
            return chosen
        return _KUBERNETES_LINGER_S if "KUBERNETES_SERVICE_HOST" in self._environ else 0.0


def _probed(verdict: Verdict) -> int:
    """Print the one line of a probe and return its exit code."""
    line = f"{'ok' if verdict.passed else 'failed'}: {squeezed(verdict.reason)}\n"
    code = errors.OK if verdict.passed else errors.UNHEALTHY
    try:
        write_stdout(line)
    except (EntryError, OSError):
        return code  # it is the answer by itself
    return code


def _names_a_mode(arguments: tuple[str, ...]) -> bool:
    modes = ("--help", "-h", "--version", "--print-env", "--dry-run", "--check", "--probe", "--save-snapshot")
    return any(argument.partition("=")[0] in modes for argument in arguments[:1])


def _termination_text(failure: EntryError) -> str:

    # A long value must push neither the code nor the remedy over the edge.
    lines = [
        f"{_shortened(failure.message)} [{failure.code}, exit code {failure.exit_code}]",
        f"fix: {_shortened(failure.hint)}",
    ]
    if isinstance(failure, PlanRefused):
        others = [one for one in failure.plan.problems if one is not failure.plan.first_error]
        for problem in sorted(others, key=lambda one: not one.fatal):
            lines.append(f"{problem.severity}: {_shortened(problem.message)} [{problem.code}]")
    return "\n".join(lines) + "\n"


def _shortened(text: str, characters: int = 700) -> str:
    line = one_line(text)
    half = characters // 2
    return line if len(line) <= characters else f"{line[:half]} [...] {line[-half:]}"


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _print(text: str) -> int:
    """Write to stdout, byte for byte what a variable held."""
    write_stdout(text)
    return errors.OK
