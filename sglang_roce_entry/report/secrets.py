"""What is not shown: keys in a command, and the values of variables that are secret by their name."""

from __future__ import annotations

from sglang_roce_entry.plan.bare_word import shown_program
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.report.shell import as_words, quoted
from sglang_roce_entry.server.redaction import is_secret_name, redacted


def is_secret_variable(name: str) -> bool:
    """Return whether the value of an environment variable must not be shown."""
    return is_secret_name(name) and not name.startswith("NCCL_")


def shown_argv(plan: Plan) -> tuple[str, ...]:
    """Return the command with secrets hidden; of a bare word the program and the number of its arguments."""
    argv = plan.argv or ()
    if plan.command is not None or not argv:
        return redacted(argv)
    return (shown_program(argv[0]), *([f"({_counted(len(argv) - 1)})"] if len(argv) > 1 else []))


def shown_command(plan: Plan) -> str:
    """Return the same as one line; of SGLang's command as it can be pasted into a shell."""
    argv = shown_argv(plan)
    return as_words(argv) if plan.command is not None else " ".join((quoted(argv[0]), *argv[1:]))


def _counted(arguments: int) -> str:
    return f"{arguments} argument{'s' if arguments > 1 else ''}, not shown"
