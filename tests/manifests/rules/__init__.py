"""Every rule takes the documents of one variant and yields a sentence for each fault."""

from __future__ import annotations

from tests.manifests.rules import closed, promised, refused, silent

RULES = (*refused.RULES, *silent.RULES, *promised.RULES, *closed.RULES)
