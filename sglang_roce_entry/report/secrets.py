"""What is not shown: keys in a command, and the values of variables that are secret by their name."""

from __future__ import annotations

from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.server.spellings import redacted

_SECRET_ENDINGS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "ACCESS_KEY", "CREDENTIALS")


def is_secret_variable(name: str) -> bool:
    """Return whether the value of an environment variable must not be shown."""
    return name.upper().endswith(_SECRET_ENDINGS) and not name.startswith("NCCL_")


def shown_argv(plan: Plan) -> tuple[str, ...]:
    """Return the command with secrets hidden, also those that it sets for another (``env HF_TOKEN=...``)."""
    return tuple(_without_secret(token) for token in redacted(plan.argv or ()))


def _without_secret(token: str) -> str:
    name, equals, _ = token.partition("=")
    return f"{name}=***" if equals and name.isidentifier() and is_secret_variable(name) else token
