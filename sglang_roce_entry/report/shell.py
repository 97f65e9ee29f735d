"""The variables of a plan for ``eval`` in a shell."""

from __future__ import annotations

import shlex

from sglang_roce_entry.log import squeezed
from sglang_roce_entry.plan.plan import Plan


def as_shell(plan: Plan) -> str:
    """Return ``export`` lines for ``eval``, sorted, each with its reason as a comment."""
    lines = []
    for variable in plan.variables:
        comment = squeezed(f"{variable.source}: {variable.reason}")
        if variable.value is None:
            lines.append(f"# {variable.name} is not set; {comment}")
        else:
            lines.append(f"export {variable.name}={shlex.quote(variable.value)} # {comment}")
    return "\n".join(lines) + "\n"
