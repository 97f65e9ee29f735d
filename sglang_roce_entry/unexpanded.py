"""A ``$(NAME)`` that reached the process as it was written: which of the remedies applies.

Kubernetes expands it in ``env`` from the entries before it, in ``command`` and ``args`` from all of them, and
leaves an unknown name as it is ("Define Dependent Environment Variables"; ``$$(NAME)`` is an escape, ``$((...))``
a shell's).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: As third_party/forked/golang/expansion of kubernetes/kubernetes reads a reference.
_REFERENCE = r"\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)"
#: A shell's sum, of those who count workers from 0 beside a separate leader (Grove, Dynamo).
_SHELL_SUM = r"\$\(\(\s*\$?\{?([A-Za-z_]\w*)\}?\s*\+\s*(\d+)\s*\)\)"
#: A shell's way to write a reference.
_SHELL_NAME = r"\$\{([A-Za-z_]\w*)\}"


def was_not_expanded(text: str) -> bool:
    """Return whether there is something in a value that Kubernetes, or a shell, should have put there."""
    return "$(" in text or "${" in text


def names_in(text: str) -> list[str]:
    """Return the names that a value still refers to."""
    return re.findall(_REFERENCE, text) if was_not_expanded(text) else []


def remedy(text: str, where: str, environ: Mapping[str, str], flag: str, variable: str) -> str:
    """Return what to do about ``text``, found at ``where``: ``--flag``, a variable, or ``key in FILE``.

    ``flag`` and ``variable`` are those of our setting that can take its place.
    """
    braces = re.search(_SHELL_NAME, text)
    added = re.search(_SHELL_SUM, text) if flag == "--worker-index" else None
    names = names_in(text)
    unknown = [name for name in names if name not in environ or name == where]
    if " in " in where:
        return f"nothing expands a file; write the value, or {variable} in the container's env"
    if added is not None:
        return f"no shell reads this: write {flag} $({added[1]})+{added[2]} in args, which is added up here"
    if braces is not None:
        written = text.replace(braces[0], f"$({braces[1]})")
        return f"no shell reads this, and Kubernetes expands $(NAME): write {written} in the manifest"
    if not names:
        return "no shell reads this: write the value itself, or let sh -c compute it and exec sglang-roce-entry"
    if unknown:
        return (
            f"this pod has no variable {unknown[0]}: check its spelling, and that the controller "
            "(and its version) injects it into this container"
        )
    if where.startswith("--"):
        return (
            f"{names[0]} is set here, but not by the manifest's env, or it is escaped as $$({names[0]}): "
            "Kubernetes expands neither; write the value"
        )
    return (
        f"{names[0]} is set, but after {where} in the pod's env: give {flag} {text} in args, where order does not "
        "matter, or take it by fieldRef"
    )
