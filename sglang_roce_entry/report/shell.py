"""The variables of a plan for ``eval`` in a shell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sglang_roce_entry.output import squeezed
from sglang_roce_entry.plan.plan import Plan


def quoted(text: str) -> str:
    """Return ``text`` as one word of any shell. zsh takes a value or word that begins with ``=`` for a command.

    (Filename Expansion, "=" expansion, of zshexpn(1): also after each ``:`` of an assignment.)
    """
    safe = shlex.quote(text)
    return f"'{text}'" if safe == text and "=" in text else safe


def as_words(argv: Sequence[str]) -> str:
    """Return a command as it can be pasted into a shell."""
    return " ".join(shlex.quote(token) if token.startswith("-") else quoted(token) for token in argv)


def as_shell(plan: Plan) -> str:
    """Return ``export`` lines for ``eval``, sorted, each with its reason as a comment."""
    lines = []
    for variable in plan.variables:
        comment = squeezed(f"{variable.source}: {variable.reason}")
        if variable.value is None:
            lines.append(f"# {variable.name} is not set; {comment}")
        else:
            lines.append(f"export {variable.name}={quoted(variable.value)} # {comment}")
    return "\n".join(lines) + "\n"
