"""A fresh network namespace with chosen links. It ends with the process that holds it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Its own sysfs, as a pod has: otherwise /sys would still show the interfaces of the machine. Without
# duplicate address detection an IPv6 address is usable at once.
_HOLD = """
mount -t sysfs sysfs /sys || exit 1
ip link set lo up || exit 1
for scope in all default; do echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_dad; done
echo ready
exec cat
"""


class NamespaceUnavailableError(Exception):
    """No network namespace can be made here, with the reason."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link with its addresses; ``bond``: a real bond where the kernel has the driver."""

    name: str
    addresses: tuple[str, ...] = ()
    up: bool = True
    bond: bool = False


class Namespace:
    """A network namespace. It and all its links are gone after ``close``."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            said = self._holder.stderr.read().strip()
            self.close()
            raise NamespaceUnavailableError(said or "unshare failed")

    @property
    def prefix(self) -> list[str]:
        """Return the words that run a command inside."""
        return ["nsenter", f"--target={self._holder.pid}", "--net", "--mount", "--"]

    def ip(self, *arguments: str, check: bool = True) -> int:
        """Run ``ip`` inside and return its exit status."""
        done = subprocess.run([*self.prefix, "ip", *arguments], capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
        return done.returncode

    def add(self, number: int, link: Link) -> None:
        """Make a link with carrier: one end of a veth pair whose other end is ``peer<number>``."""
        if not (link.bond and self._add_bond(number, link)):
            self.ip("link", "add", link.name, "type", "veth", "peer", "name", f"peer{number}")
        self.ip("link", "set", f"peer{number}", "addrgenmode", "none")
        self.ip("link", "set", f"peer{number}", "up")
        for address in link.addresses:
            # The kernel takes no IPv6 address on a link that is down for the first time.
            options = ("nodad",) if ":" in address else ()
            self.ip("address", "add", address, "dev", link.name, *options)
        if link.up:
            self.ip("link", "set", link.name, "up")

    def _add_bond(self, number: int, link: Link) -> bool:
        """Make a bond over one port; ``False`` where the kernel has no bonding driver."""
        if self.ip("link", "add", link.name, "type", "bond", check=False) != 0:
            return False
        port = f"slave{number}"
        self.ip("link", "add", port, "type", "veth", "peer", "name", f"peer{number}")
        self.ip("link", "set", port, "master", link.name)
        return True

    def close(self) -> None:
        """End the holder, and with it the namespace."""
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe is not None:
                pipe.close()
        try:
            self._holder.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()


def namespace(links: Sequence[Link], routes: Sequence[Sequence[str]] = ()) -> Namespace:
    """Return a namespace with ``links``, made in this order, and ``routes`` (words of ``ip route add``).

    Raises ``NamespaceUnavailableError``.
    """
    made = Namespace()
    try:
        for number, link in enumerate(links):
            made.add(number, link)
        for route in routes:
            made.ip(*(("-6",) if any(":" in word for word in route) else ()), "route", "add", *route)
    except BaseException:
        made.close()
        raise
    return made
