"""Layers that need more than Python: skip with one sentence, or fail where they must not be missing.

``SGLANG_ROCE_TESTS_REQUIRE`` is ``all`` or a comma list of ``LAYERS``; a required layer that lacks
something fails instead of skipping, and a name that is not one of them is a usage error.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

VARIABLE = "SGLANG_ROCE_TESTS_REQUIRE"
#: The markers of pyproject.toml, and what needs something without having one.
MARKED = ("netns", "manifests", "container", "consumers", "nccl", "torch", "kernel", "sglang", "browser")
LAYERS = (*MARKED, "group", "server", "verbs", "instructions")


def _required() -> tuple[str, ...]:
    given = os.environ.get(VARIABLE, "")
    return LAYERS if given.strip() == "all" else tuple(name.strip() for name in given.split(",") if name.strip())


def check_required() -> None:
    """Raise ``pytest.UsageError`` if a layer is required that does not exist: nothing would run, and nothing say so."""
    unknown = [name for name in _required() if name not in LAYERS]
    if unknown:
        raise pytest.UsageError(f"{VARIABLE}: no layer {', '.join(unknown)}; all, or of {', '.join(LAYERS)}")


def is_required(layer: str) -> bool:
    """Return whether ``layer`` must run here."""
    assert layer in LAYERS, layer
    return layer in _required()


def skip_or_fail(layer: str, sentence: str) -> NoReturn:
    """Skip with one plain sentence, or fail with it where the layer is required."""
    if is_required(layer):
        pytest.fail(f"the {layer} layer is required here: {sentence}", pytrace=False)
    pytest.skip(sentence)
