"""Addresses that come and go, and readers of the GID table meanwhile.

churn.py change            replace one address by the other and back, without end
churn.py read DEVICE       print, as JSON, what 1,000 discoveries of the installed package reported
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

DISCOVERIES = 1000
NAIVE_READING_S = 10.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.006
# soft-RoCE's table has 1,024 slots, many HCAs' have far fewer. A short one is read more often while it changes.
SLOTS = 32

# Each takes the first free slots, which are the ones that the other has just left.
COMING_AND_GOING = (("eth4", "10.0.7.1"), ("eth4.100", "10.0.107.1"))

Reported = Counter[tuple[str, "str | None", "str | None"]]


def change() -> None:
    """Replace each of the two addresses by the other until the pipe or this process is gone."""
    pauses = random.Random(1)
    with subprocess.Popen(["ip", "-batch", "-"], stdin=subprocess.PIPE, text=True) as ip:
        assert ip.stdin is not None
        (netdev, address), _ = COMING_AND_GOING
        ip.stdin.write(f"addr add {address}/24 dev {netdev}\n")
        for going, coming in itertools.cycle(itertools.permutations(COMING_AND_GOING)):
            for verb, (netdev, address) in (("del", going), ("add", coming)):
                ip.stdin.write(f"addr {verb} {address}/24 dev {netdev}\n")
            ip.stdin.flush()
            # Uneven, or it may keep step with the reader.
            time.sleep(pauses.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S))


def discover(device: str) -> Reported:
    """Return (GID as address, type, netdev) of each slot that the package's discoveries reported, with counts."""
    from sglang_roce_entry.host.rdma import read_hcas
    from sglang_roce_entry.host.tree import DiskTree

    class ShortTables(DiskTree):
        def names(self, path: str) -> list[str]:
            names = super().names(path)
            if not path.endswith("/gids"):
                return names
            return [name for name in names if int(name) < SLOTS]

    reported: Reported = Counter()
    for _ in range(DISCOVERIES):
        (hca,) = read_hcas(ShortTables(), lambda *_: "ok")
        assert hca.name == device
        for gid in hca.ports[0].gids:
            reported[str(gid.ip), gid.type, gid.netdev] += 1
    return reported


def read_naively(device: str) -> Reported:
    """Return the same from a reader that reads each file once, in the obvious order, which tears."""
    port = Path("/sys/class/infiniband", device, "ports", "1")

    def attribute(kind: str, index: int) -> str | None:
        try:
            return (port / "gid_attrs" / kind / str(index)).read_text().strip()
        except OSError:
            return None

    reported: Reported = Counter()
    end = time.monotonic() + NAIVE_READING_S
    while time.monotonic() < end:
        for index in range(12):
            gid = ipaddress.IPv6Address((port / "gids" / str(index)).read_text().strip())
            if int(gid):
                address = str(gid.ipv4_mapped or gid)
                reported[address, attribute("types", index), attribute("ndevs", index)] += 1
    return reported


def read(device: str) -> dict[str, object]:
    """Return what the package's discoveries and the naive reader reported, in lists that JSON can hold."""
    started = time.monotonic()
    reported = discover(device)
    discoveries_s = time.monotonic() - started
    naive = read_naively(device)
    return {
        "discoveries": DISCOVERIES,
        "discoveries_s": discoveries_s,
        "reported": [[*combination, count] for combination, count in reported.items()],
        "naively reported": [[*combination, count] for combination, count in naive.items()],
    }


if __name__ == "__main__":
    if sys.argv[1] == "change":
        change()
    else:
        print(json.dumps(read(sys.argv[2])))
