"""``k8s/TROUBLESHOOTING.md``, from the program's own table of codes. ``python -m tests.troubleshooting`` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from sglang_roce_entry.codes import EXITS, GROUPS, Entry, Group
from tests.symptoms import table

DOCUMENT = Path(__file__).parent.parent / "k8s" / "TROUBLESHOOTING.md"

_HEAD = """\
# When it does not work

Every code that `sglang-roce-entry` reports: what it means, what NCCL or SGLang alone would have done, how to see it,
and what to do. Search this page for the code at the end of a line of the log. Written by `python -m tests.troubleshooting`
from the table behind `sglang-roce-entry --explain`.

## How to look

```
kubectl logs POD --previous                                    # errors are two lines: what is wrong [CODE], and the fix
kubectl describe pod POD                                       # Last State, Message: the same lines, also after the log is gone
kubectl logs -l leaderworkerset.sigs.k8s.io/name=sglang --prefix --tail=-1 | grep fingerprint    # the odd one stands out
kubectl exec POD -- sglang-roce-entry --check                  # each known trap on one line; also as a Job: preflight/
kubectl exec POD -- sglang-roce-entry --dry-run                # ports, GIDs, variables and command, each with its reason
kubectl exec POD -- sglang-roce-entry --explain CODE           # one entry of this page
kubectl exec POD -- sglang-roce-entry --save-snapshot - > node.tar.gz       # for a bug report; no secrets, no identifiers
sglang-roce-entry --snapshot node.tar.gz --check               # the same lines on a laptop
NCCL_IB_GID_INDEX=3 sglang-roce-entry --snapshot node.tar.gz --dry-run      # what if?
```

A launch that fails pauses for 15 s in Kubernetes (`--linger`), because LeaderWorkerSet deletes the pod with its log. Set
`NCCL_DEBUG=INFO` to see NCCL's own lines, `NCCL_DEBUG_SUBSYS=INIT,NET` also for the GID index that it uses.

## By symptom
"""


def _escaped(text: str) -> str:
    """Return a text of the table as Markdown: what it quotes in backticks stays as it is."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*<>])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _entry(group: Group, entry: Entry) -> str:
    heading = f"Exit code {entry.code}" if group is EXITS else entry.code
    paragraphs = [f"### {heading}", _escaped(entry.means)]
    if entry.alone:
        paragraphs.append(f"*Without this program:* {_escaped(entry.alone)}")
    if entry.see:
        paragraphs.append(f"*See:* `{entry.see}`")
    if entry.do:
        paragraphs.append(f"*Do:* {_escaped(entry.do)}")
    return "\n\n".join(paragraphs)


def written() -> str:
    """Return the document as the program's table has it now."""
    parts = [_HEAD.rstrip(), table()]
    for group in GROUPS:
        parts += [f"## {group.title}", _escaped(group.about)]
        parts += [_entry(group, entry) for entry in group.entries]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(written(), encoding="utf-8")
