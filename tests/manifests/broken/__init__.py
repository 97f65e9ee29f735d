"""For every rule the manifests that break it, and the sentence that it must say then."""

from __future__ import annotations

from tests.manifests.broken import closed, promised, refused, silent

CASES = (*refused.CASES, *silent.CASES, *promised.CASES, *closed.CASES)
