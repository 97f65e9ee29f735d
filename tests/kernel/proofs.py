"""Scenarios in the guest: RDMA that the launcher itself sends, to its own HCA and over the routed fabric."""

from __future__ import annotations

import queue
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sglang_roce_entry.verbs.device import Device, Verbs
from sglang_roce_entry.verbs.end import FIRST, End
from sglang_roce_entry.verbs.exchange import exchange
from sglang_roce_entry.verbs.judgement import judge
from sglang_roce_entry.verbs.messages import Rail, Seen
from tests.kernel.fabrics import lay_routed_fabric
from tests.kernel.node import add_hca, gid_table, ip, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.kernel.node import Command

Result = dict[str, Any]
WITHOUT_LOCKING = ("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")
WITHOUT_PROVIDERS = ("unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /etc/libibverbs.d; exec "$@"', "sh")


def loopback(command: Command) -> Result:
    """Check a node whose two HCAs are whole; then with little locked memory, and without providers."""
    add_hca("mlx5_0", "eth4", "10.0.1.1/24")
    add_hca("mlx5_1", "eth5", "10.0.2.1/24", "fd00:2::1/64")

    def check(*inside: str) -> Result:
        return command("--rdma", "required", "--check=json", "--model-path", "m", inside=inside).plan()

    return {
        "whole": check(),
        "16 KiB": check("prlimit", f"--memlock={16 << 10}:{16 << 10}", *WITHOUT_LOCKING),
        "no providers": check(*WITHOUT_PROVIDERS),
    }


def exchanges(command: Command) -> Result:
    """Let two ends prove each other over the router: right, wrong, one way only, with packets that are too large."""
    lay_routed_fabric()
    verbs = Verbs()
    devices = {name: Device(verbs, name) for name in ("mlx5_0", "mlx5_1")}

    def prove(near: int, far: int) -> Result:
        rails = (Rail("mlx5_0", 1, near), Rail("mlx5_1", 1, far))
        return _proven([End(devices[rail.device], rail, FIRST) for rail in rails])

    result: Result = {
        "tables": {name: gid_table(name) for name in devices},
        "right": prove(3, 5),
        "again": prove(3, 5),
    }
    prove(5, 3)  # the first look-up of an IPv6 neighbour takes seconds here
    result["IPv6"] = prove(5, 3)
    result["families differ"] = prove(3, 3)
    result["RoCE v1"] = prove(2, 4)
    result["empty"] = prove(3, 60)
    ip("route add blackhole 10.0.2.1/32", netns="router")
    result["one way"] = prove(3, 5)
    ip("route add blackhole 10.0.1.1/32", netns="router")
    result["no way"] = prove(3, 5)
    ip("route del blackhole 10.0.2.1/32", "route del blackhole 10.0.1.1/32", netns="router")
    result["cured"] = prove(3, 5)
    for device in devices.values():
        device.close()
    result["left behind"] = run("rdma", "resource", "show")
    return result


def _proven(ends: Sequence[End]) -> Result:
    inboxes: list[queue.Queue[bytes]] = [queue.Queue(), queue.Queue()]
    seen: list[tuple[Seen, Seen | None] | None] = [None, None]

    def hear(number: int, seconds: float) -> bytes | None:
        try:
            return inboxes[number].get(timeout=seconds)
        except queue.Empty:
            return None

    def work(number: int) -> None:
        say = inboxes[1 - number].put
        seen[number] = exchange(ends[number], say, lambda seconds: hear(number, seconds), 20.0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for end in ends:
        end.close()
    views = [one for one in seen if one is not None]
    return {
        "verdicts": [asdict(judge(*one)) for one in views],
        "seen": [asdict(ours) for ours, _ in views],
        "alike": len(views) == 2 and views[0] == views[1][::-1],
    }
