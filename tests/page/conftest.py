"""The command as a process, as the tests of the command have it."""

from __future__ import annotations

from tests.command.conftest import run

__all__ = ["run"]
