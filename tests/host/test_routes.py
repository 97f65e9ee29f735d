"""Ways out of a rail, asked of a real kernel: gateways in the main table and in tables of a rail's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.layers import skip_or_fail
from tests.process.nodes import missing_requirement

pytestmark = pytest.mark.netns

RAILS = """
set -e
ip link set lo up
for n in 1 2 3 4 5; do
  ip link add rail$n type veth peer name peer$n
  ip link set rail$n up; ip link set peer$n up
  ip addr add 10.$n.0.5/24 dev rail$n; ip -6 addr add fd00:$n::5/64 dev rail$n nodad
done
ip route add default via 10.1.0.1 dev rail1
ip route add 10.128.0.0/9 via 10.2.0.1 dev rail2
ip rule add from 10.3.0.5 lookup 103; ip route add default via 10.3.0.1 dev rail3 table 103
ip -6 rule add from fd00:3::5 lookup 103; ip -6 route add default via fd00:3::1 dev rail3 table 103
ip rule add from 10.4.0.5 lookup 104; ip route add 10.4.1.0/24 via 10.4.0.1 dev rail4 table 104
exec "$@"
"""
ASK = """
import json
from ipaddress import ip_address
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.host.further.card_facts import read_card_facts
print(json.dumps([
    read_card_facts(live_host(), [(f"rail{n}", ip_address(text.format(n=n))) for n in range(1, 6)]).gateways
    for text in ("10.{n}.0.5", "fd00:{n}::5", "10.99.{n}.5")
]))
"""


def test_gateways_of_rails() -> None:
    missing = missing_requirement()
    if missing:
        skip_or_fail("netns", missing)
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", RAILS, "sh", sys.executable, "-c", ASK],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    four, six, not_its_own = json.loads(done.stdout)
    assert four == {"rail1": True, "rail2": True, "rail3": True, "rail4": True, "rail5": False}
    assert six == {"rail1": False, "rail2": False, "rail3": True, "rail4": False, "rail5": False}
    assert not_its_own == {}


#: Two rails of one network on both sides, each pair on a wire of its own. $1 is rp_filter, $2 a file of commands.
ONE_NETWORK = """
set -e
ip link set lo up
mkdir -p /run/netns; ip netns add peer
for n in 0 1; do
  ip link add rail$n type veth peer name peer$n netns peer
  sysctl -qw net.ipv4.conf.rail$n.arp_ignore=1 net.ipv4.conf.rail$n.arp_announce=2 net.ipv4.conf.rail$n.rp_filter=$1
  ip addr add 10.9.0.1$n/24 dev rail$n; ip link set rail$n up
  ip -n peer addr add 10.9.0.2$n/24 dev peer$n; ip -n peer link set peer$n up
done
sysctl -qw net.ipv4.conf.all.rp_filter=0
eval "$2"
"$3" -c "$4"
for n in 0 1; do
  ip netns exec peer "$3" -c "$5" peer$n 10.9.0.1$n
  if ip -n peer neigh show 10.9.0.1$n dev peer$n | grep -q lladdr; then echo answers; else echo silent; fi
done
"""
ASK_WAYS = """
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.host.further.routes import ways_to_neighbours
for address, way in sorted(ways_to_neighbours(live_host().answers.interfaces()).items()):
    print(address, way.interface or "-", way.table or "-")
"""
SEND = """
import socket, sys, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
for _ in range(3):
    one.sendto(b"x", (sys.argv[2], 9))
    time.sleep(0.1)
"""
RULES = {
    "none": ("", ["rail0 main", "rail0 main"]),
    "each its own": (
        "for n in 0 1; do ip rule add from 10.9.0.1$n lookup 10$n; ip route add 10.9.0.0/24 dev rail$n table 10$n; done",
        ["rail0 100", "rail1 101"],
    ),
    "a rule to another's": (
        "ip rule add from 10.9.0.11 lookup 101; ip route add 10.9.0.0/24 dev rail0 table 101",
        ["rail0 main", "rail0 101"],
    ),
    "a rule to nothing": ("ip rule add from 10.9.0.11 unreachable", ["rail0 main", "- -"]),
    "the metric": (
        "ip route del 10.9.0.0/24 dev rail0; ip route add 10.9.0.0/24 dev rail0 metric 5000",
        ["rail1 main"] * 2,
    ),
}


@pytest.mark.parametrize("strict", [True, False], ids=["rp_filter 1", "rp_filter 2"])
@pytest.mark.parametrize("name", RULES)
def test_rails_of_one_network_answer_arp_where_they_lead(name: str, *, strict: bool) -> None:
    """The route that is read is what decides: a rail behind rp_filter 1 answers only if its packets leave by it."""
    missing = missing_requirement()
    if missing:
        skip_or_fail("netns", missing)
    commands, ways = RULES[name]
    done = subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", "mount -t tmpfs none /run\n" + ONE_NETWORK, "sh", "1" if strict else "2",
         commands, sys.executable, ASK_WAYS, SEND],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *found, first, second = done.stdout.splitlines()
    assert found == [f"10.9.0.1{n} {way}" for n, way in enumerate(ways)]
    own = [way.startswith(f"rail{n} ") for n, way in enumerate(ways)]
    reachable = [way != "- -" for way in ways]
    expected = own if strict else reachable
    assert [first, second] == ["answers" if one else "silent" for one in expected]


NAMESPACE = """
from sglang_roce_entry.host.answers import live_host
from sglang_roce_entry.host.further.card_facts import read_card_facts
facts = read_card_facts(live_host(), [])
print(facts.boot_id, facts.network_namespace)
"""


def test_processes_of_one_network_are_told_from_those_of_another() -> None:
    """On one machine pods that share its network collide, others do not."""
    missing = missing_requirement()
    if missing:
        skip_or_fail("netns", missing)
    own, again, elsewhere = (
        subprocess.run(
            [*prefix, sys.executable, "-c", NAMESPACE],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60,
        ).stdout.split()
        for prefix in ((), (), ("unshare", "-n"))
    )  # fmt: skip
    assert own == again
    assert own[0] == elsewhere[0] != "None"
    assert own[1] != elsewhere[1]
