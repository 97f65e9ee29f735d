"""Layers that need more than Python: skip with one sentence, or fail where they must not be missing.

``SGLANG_ROCE_TESTS_REQUIRE`` is ``all`` or a comma list of markers; a required layer that lacks
something fails instead of skipping.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def is_required(layer: str) -> bool:
    """Return whether ``layer`` must run here."""
    required = os.environ.get("SGLANG_ROCE_TESTS_REQUIRE", "")
    return required == "all" or layer in required.split(",")


def skip_or_fail(layer: str, sentence: str) -> NoReturn:
    """Skip with one plain sentence, or fail with it where the layer is required."""
    if is_required(layer):
        pytest.fail(f"the {layer} layer is required here: {sentence}", pytrace=False)
    pytest.skip(sentence)
