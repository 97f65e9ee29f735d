"""Scenario in the guest: the same proof with the rdma-core, the libc and the Python of several Debian releases."""

from __future__ import annotations

import json
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sglang_roce_entry
from tests.kernel.group_proof import prove_apart
from tests.kernel.node import OUT, run
from tests.kernel.segments import lay_segments
from tests.kernel.situations import BY_RELEASE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sglang_roce_entry.verbs.messages import Rail
    from tests.kernel.node import Command

Result = dict[str, Any]
#: The roots of other releases, by rdma-core's version.
USERLANDS = OUT / "userlands.json"
INTERPRETER = "/usr/bin/python3"
_CODE = (Path(__file__).resolve().parents[2], Path(sglang_roce_entry.__file__).resolve().parents[1])
#: Importing it once leaves the byte code of all that the processes load.
_WARM = "import tests.kernel.group_proof, sglang_roce_entry.verbs.proof.ends"


def releases(command: Command) -> Result:
    """Prove a whole rail and four broken ones with this machine's release and others, all at once."""
    near, far = lay_segments(2, len(BY_RELEASE))
    for situation, *ports in zip(BY_RELEASE, near, far, strict=True):
        situation.does(*ports)
    ends = [one.ends(*ports) for one, *ports in zip(BY_RELEASE, near, far, strict=True)]
    rails = {node: [pair[node] for pair in ends] for node in (0, 1)}
    roots: dict[str, str] = json.loads(USERLANDS.read_text())
    for root in roots.values():
        run(*_inside(root), INTERPRETER, "-c", _WARM)
    with ThreadPoolExecutor() as together:
        proven = {version: together.submit(_proven, rails, root) for version, root in {"": "", **roots}.items()}
    return {
        "kernel": os.uname().release,
        "releases": {version or _own_version(): one.result() for version, one in proven.items()},
    }


def _proven(rails: Mapping[int, Sequence[Rail]], root: str) -> Result:
    return prove_apart(rails, *_inside(root), interpreter=INTERPRETER) if root else prove_apart(rails)


def _inside(root: str) -> tuple[str, ...]:
    """Return what runs a program in a root with this kernel and this code."""
    places = ["/proc", "/sys", "/dev", *dict.fromkeys(map(str, _CODE))]
    lines = [
        f"mkdir -p {shlex.quote(root + one)}; mount --rbind {one} {shlex.quote(root + one)}" for one in places
    ]
    path = shlex.quote(os.pathsep.join(map(str, _CODE)))
    lines.append(f'exec env PYTHONPATH={path} chroot {shlex.quote(root)} "$@"')
    return "unshare", "--mount", "sh", "-ec", "\n".join(lines), "sh"


def _own_version() -> str:
    return run("dpkg-query", "-W", "-f", "${Version}", "ibverbs-providers")
