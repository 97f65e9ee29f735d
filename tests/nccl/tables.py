"""Generated GID tables, settings and selectors: the same for a given seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.nccl.nodes import NodePort, Slot, Table
from tests.trees import V1, V2

if TYPE_CHECKING:
    import random

LENGTHS = (1, 2, 3, 5, 8, 16, 32, 128)
_LENGTH_WEIGHTS = (1, 2, 3, 6, 10, 10, 3, 1)

#: Below the 32 devices that NCCL takes into its table.
PORTS_PER_NODE = 30

_IPV4 = ("10.0.0.1", "10.0.1.1", "10.1.0.1", "192.168.7.9", "169.254.3.4", "100.64.0.2", "11.0.0.1")
_IPV6 = ("2001:db8::1", "2001:db8:1::1", "fd00::1", "fd00:0:0:1::2")
# Link-local to NCCL are the first 64 bits fe80:0:0:0 only.
_LINK_LOCAL = ("fe80::1", "fe80::a:b:c:d", "fe80::", "fe80:0:0:1::5")

RANGES = (
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.0.0/8",
    "192.168.7.9/32",
    "172.16.0.0/12",
    "0.0.0.0/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8::1/128",
    "fd00::/10",
    "fe80::/64",
    "::/0",
)


#: Without a length these end NCCL 2.21 and 2.22.
CRASHING_RANGES = ("10.0.0.0", "10.0.0.0,10.1.0.0", "eth0")

_ODD_RANGES = (
    "10.0.0.0/16,10.1.0.0/16",
    "10.0.0.1,10.1.0.0/16",
    " 10.0.0.0/16",
    "10.0.0.0/ 16",
    "10.0.0.0/+16x",
    "10.0.0.0/",
    "10.0.0.0/x",
    "10.0.0.0/33",
    "10.0.0.0/255.255.0.0",
    "10.0.0.0/0.0.255.255",
    "010.0.0.0/16",
    "10.0/16",
    "fe80::1%lo/64",
    "2001:db8::/129",
    "2001:DB8:0:0::7/32",
    "::ffff:10.0.0.0/112",
)


def random_steering(rng: random.Random, nccl: tuple[int, ...]) -> dict[str, str]:
    """Return the variables of NCCL's scan as users write them, sound or not, without what ends ``nccl``."""
    ranges = [*RANGES, *RANGES, *_ODD_RANGES]
    if nccl >= (2, 23):
        ranges += CRASHING_RANGES
    values = {
        "NCCL_IB_ADDR_FAMILY": rng.choice(("", "", "AF_INET", "AF_INET6", "AF_INET6", "AF_INET6", "inet6")),
        "NCCL_IB_ADDR_RANGE": rng.choice(ranges) if rng.random() < 0.6 else "",
        "NCCL_IB_ROCE_VERSION_NUM": rng.choice(("", "", "", "2", "2", "1", "3", "0", "v2", "0x1")),
    }
    return {name: value for name, value in values.items() if value}


def random_slot(rng: random.Random) -> Slot | None:
    """Return an occupied slot of any sort, or ``None`` for an empty one."""
    sort = rng.random()
    if sort < 0.2:
        return None
    if sort < 0.4:
        ip = rng.choice(_LINK_LOCAL)
    elif sort < 0.75:
        ip = rng.choice(_IPV4)
    else:
        ip = rng.choice(_IPV6)
    return Slot(ip, rng.choices((V1, V2, None), weights=(40, 45, 15))[0])


def random_table(rng: random.Random) -> tuple[Table, int]:
    """Return a table as no healthy node has it, and its length."""
    (length,) = rng.choices(LENGTHS, _LENGTH_WEIGHTS)
    busy = min(length, rng.choice((2, 4, 6, 8, 12, 20)))
    table = {}
    for index in rng.sample(range(length), rng.randint(0, busy)):
        slot = random_slot(rng)
        if slot is not None:
            table[index] = slot
    return table, length


# ---- tables of nodes, for the whole decision ------------------------------------------------------


def random_port(rng: random.Random, device: str, number: int, style: int, *, ipv4: bool = True) -> NodePort:
    """Return a port as nodes have it; ports of one ``style`` have much in common.

    Its own address is in 10.<style>.0.0/16, without ``ipv4`` in 2001:db8:<style>::/48; foreign ones, a
    second own one, IPv6, holes and unreadable types come with some probability.
    """
    own = f"10.{style}.{number}.{rng.randint(1, 250)}" if ipv4 else f"2001:db8:{style:x}::{number + 1:x}"
    addresses = [f"{own}/{rng.choice((16, 24) if ipv4 else (48, 64))}"]
    entries: list[Slot] = []
    if rng.random() < 0.9:
        entries += _pair(rng, f"fe80::{number + 1:x}")
    stem = f"10.{style}.200." if ipv4 else f"2001:db8:{style:x}::f"
    foreign = [f"{stem}{n}" for n in range(rng.choice((0, 0, 0, 1, 2)))]
    groups = [_pair(rng, own)]
    groups += [_pair(rng, ip) for ip in foreign]
    if rng.random() < 0.15:
        second = f"172.20.{number}.7" if ipv4 else f"fd00:{number:x}::7"
        addresses.append(f"{second}/24" if ipv4 else f"{second}/64")
        groups.append(_pair(rng, second))
    if ipv4 and rng.random() < 0.25:
        six = f"2001:db8:{style:x}::{number + 1:x}"
        addresses.append(f"{six}/64")
        groups.append(_pair(rng, six))
    if rng.random() < 0.5:
        rng.shuffle(groups)
    for group in groups:
        entries += group
    length = rng.choice((12, 16, 24))
    table: Table = {}
    index = 0
    holes = rng.random() < 0.3
    for entry in entries:
        if holes and rng.random() < 0.25:
            index += rng.randint(1, 3)
        hidden = entry.ip in foreign and rng.random() < 0.4
        if index < length:
            table[index] = Slot(entry.ip, None) if hidden else entry
        index += 1
    return NodePort(device, 1, table, length, tuple(addresses))


def _pair(rng: random.Random, ip: str) -> list[Slot]:
    """Return the two slots that the kernel fills per address, rarely only one or in reverse."""
    order = rng.random()
    if order < 0.8:
        return [Slot(ip, V1), Slot(ip, V2)]
    return [Slot(ip, V2), Slot(ip, V1)] if order < 0.9 else [Slot(ip, V2)]


def random_node(rng: random.Random) -> list[NodePort]:
    """Return the ports of a node: mostly alike, as after one boot, sometimes each by itself."""
    stem = rng.choice(("mlx5_", "mlx5_", "bnxt_re", "rocep", "irdma", "mlx5_bond_"))
    count = rng.choice((1, 2, 4, 8, 8, 12))
    style = rng.randint(1, 99)
    ipv4 = rng.random() < 0.75
    if rng.random() < 0.4:
        seed = rng.randint(0, 1 << 30)
        alike = [random_port(type(rng)(seed), f"{stem}{n}", n, style, ipv4=ipv4) for n in range(count)]
        # One of them has lived through more than the others.
        if count > 1 and rng.random() < 0.7:
            alike[-1] = random_port(rng, f"{stem}{count - 1}", count - 1, style, ipv4=ipv4)
        return alike
    return [random_port(rng, f"{stem}{n}", n, style, ipv4=ipv4) for n in range(count)]


# ---- selectors ------------------------------------------------------------------------------------

_STRANGE = (" ", "mlx5", "m", "mlx5_1 ", " mlx5_1", "^mlx5_0", "=mlx5_1", "none", "MLX5_0", "bnxt", "_")
_PORTS = (
    "",
    ":1",
    ":2",
    ":",
    ":0",
    ":-1",
    ":+1",
    ":1:2",
    ":2:",
    "::1",
    ":1:2:3",
    ":x",
    ":01",
    ": 1",
    ":1x",
    ":4294967297",
    ":99999999999999999999",
)


def random_selector(rng: random.Random, devices: list[str]) -> str:
    """Return a value of ``NCCL_IB_HCA``: sound, odd, or nonsense."""
    head = rng.choice(("", "", "=", "=", "=", "^", "^=", "=^", "^^", "=="))
    count = rng.choices((0, 1, 2, 3, 6, 34, 40), weights=(1, 5, 5, 4, 3, 1, 1))[0]
    entries = []
    for _ in range(count):
        sort = rng.random()
        if sort < 0.55:
            name = rng.choice(devices)
        elif sort < 0.7:
            whole = rng.choice(devices)
            name = whole[: rng.randint(0, len(whole))]
        elif sort < 0.8:
            name = rng.choice(devices) + rng.choice("0123x")
        else:
            name = rng.choice(_STRANGE)
        entries.append(name + (rng.choice(_PORTS) if rng.random() < 0.5 else ""))
    return head + rng.choice((",", ",", ",", ",,")).join(entries)
