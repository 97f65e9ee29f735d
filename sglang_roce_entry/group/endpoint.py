"""Hosts and ``host:port`` endpoints: names, IPv4, IPv6 in brackets."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

IpAddress = IPv4Address | IPv6Address

MAX_PORT = 65535
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class EndpointError(ValueError):
    """A text that is not a host or an endpoint: the message is the reason, ``fix`` what to write."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


#: KEP-898 of kubernetes-sigs/lws: the leader is called <name>-<first 8 of the group's key>.
_HASH_DIGITS = 8


def ends_in_its_number(label: str) -> bool:
    """Return whether a leader's pod is named by its number, so that its workers' names follow from its own.

    A leader whose name does not end in its number has a hash in the names of its workers (LeaderWorkerSet's
    pod_controller.go); so may one whose number is as long as the hash of ``groupIdentity: Hash``, which can be all
    digits.
    """
    stem, _, number = label.rpartition("-")
    return bool(stem) and number.isascii() and number.isdecimal() and len(number) < _HASH_DIGITS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``host:port``, an IPv6 literal in brackets."""
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """Return ``host`` as it is written before ``:port``."""
    return f"[{host}]" if ":" in host else host


def literal(host: str) -> IpAddress | None:
    """Return ``host`` as an address, ``None`` if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def no_host(address: IpAddress) -> str | None:
    """Return what an address is that no other node can have, ``None`` for one of a host."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    plain = mapped or address
    if plain.is_unspecified:
        return "where a server listens, never where one is reached"
    if plain.is_multicast:
        return "a multicast address"
    return "the broadcast address" if int(plain) == 0xFFFFFFFF and plain.version == 4 else None


def parse_host(text: str) -> str:
    """Return the host of a leader address, without brackets. Raises :class:`EndpointError`.

    An IPv6 address without brackets is refused: ``fd00::1:20000`` could be an address or an address with a port.
    """
    if "://" in text:
        raise EndpointError("has a scheme", f"write only the host: {_after_scheme(text)}")
    _refuse_user(text)
    if any(character.isspace() for character in text):
        raise EndpointError("has spaces", "write only the host name or address")
    if text.startswith("["):
        return _bracketed_host(text)
    if text.count(":") > 1:
        if literal(text) is not None:
            raise EndpointError("is an IPv6 address without brackets", f"write it in brackets: [{text}]")
        raise EndpointError("is not an address", "write a name, an IPv4 address or [IPv6]")
    if ":" in text:
        host = text.partition(":")[0]
        raise EndpointError("has a port", f"write only the host: {host}; the port is --dist-init")
    return _plain_host(text)


def _refuse_user(text: str) -> None:
    if "@" in text:
        raise EndpointError(
            "has a user or a password in it", f"write what is behind it: {text.rpartition('@')[2]}"
        )


def _after_scheme(text: str) -> str:
    return text.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0] or "sglang-0.sglang"


def _bracketed_host(text: str) -> str:
    inner, closing, rest = text[1:].partition("]")
    address = literal(inner)
    if not closing or not isinstance(address, IPv6Address):
        raise EndpointError("has brackets around something that is not an IPv6 address", "write [fd00::1]")
    if rest:
        raise EndpointError("has a port", f"write only the host: [{inner}]; the port is --dist-init")
    return str(address)


def _plain_host(text: str) -> str:
    if not text:
        raise EndpointError("is empty", "write a name, an IPv4 address or [IPv6]")
    address = literal(text)
    if address is not None:
        return str(address)
    name = text.removesuffix(".")
    labels = name.split(".")
    if not set(name) <= _NAME_CHARACTERS or not all(0 < len(label) <= 63 for label in labels):
        raise EndpointError("is not a host name", "write a name of letters, digits, '-' and '.'")
    if len(name) > 253:
        raise EndpointError("is longer than a DNS name can be", "write a shorter name")
    if all(label.isdecimal() for label in labels):
        raise EndpointError("is not an IPv4 address", "write four numbers from 0 to 255")
    return text


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint of ``host:port``. Raises :class:`EndpointError`."""
    if "://" in text:
        raise EndpointError(
            "has a scheme", f"write {text.rpartition('://')[2].rpartition('@')[2] or 'host:20000'}"
        )
    _refuse_user(text)
    host_text, colon, port_text = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        raise EndpointError("has no port", f"write {text}:20000")
    if not colon:
        raise EndpointError("has no port", f"write {text or 'host'}:20000")
    if ":" in host_text and not host_text.startswith("["):
        raise EndpointError("is an IPv6 address without brackets", f"write [{host_text}]:{port_text}")
    return Endpoint(parse_host(host_text), parse_port(port_text))


def parse_port(text: str) -> int:
    """Return a TCP port from 1 to 65535. Raises :class:`EndpointError`."""
    if not text.isascii() or not text.isdecimal():
        raise EndpointError(f"has the port {text!r}, which is not a number", "write a port like 20000")
    port = int(text) if len(text) < 10 else MAX_PORT + 1
    if not 1 <= port <= MAX_PORT:
        raise EndpointError(f"has the port {text}, out of range", "write a port from 1 to 65535")
    return port
