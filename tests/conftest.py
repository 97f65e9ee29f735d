"""What did not run is said once for each layer and sentence, not once for each place in the tests."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

from tests.layers import check_required

# How fast a machine makes examples says nothing about the code: other layers run beside these tests.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


def pytest_configure() -> None:
    """Refuse a layer that does not exist."""
    check_required()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests each sentence kept from running (``-rs`` adds every place)."""
    counted: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        folder = report.nodeid.partition("::")[0].removeprefix("tests/").partition("/")[0]
        counted[folder, report.longrepr[2].removeprefix("Skipped: ")] += 1
    if not counted:
        return
    width = max(len(folder) for folder, _ in counted)
    terminalreporter.section("not run here")
    for (folder, sentence), count in sorted(counted.items()):
        terminalreporter.write_line(f"{folder:<{width}}  {count:>4}  {sentence}")
