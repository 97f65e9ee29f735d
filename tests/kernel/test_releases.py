"""The proof on Debian's newest kernel, with the rdma-core of this machine's release and of two newer ones."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.kernel.situations import BY_RELEASE

pytestmark = pytest.mark.kernel

Result = dict[str, Any]


def test_every_release_comes_to_the_same(releases: Result) -> None:
    major, minor = map(int, re.findall(r"\d+", releases["kernel"])[:2])
    assert (major, minor) > (6, 12)
    assert len(releases["releases"]) == 3
    for version, proven in releases["releases"].items():
        for situation, outcome in zip(BY_RELEASE, proven["outcomes"].values(), strict=True):
            status, cause, _, problems = outcome
            refused = [code for severity, code, _ in problems if severity == "error"]
            if situation.cause:
                assert (status, cause, refused) == ("failed", situation.cause, [f"RAIL_{situation.cause}"]), (
                    version
                )
            else:
                assert (status in ("proven", "lossy"), refused) == (True, []), version
