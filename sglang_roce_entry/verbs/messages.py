"""What an end is, and what two ends of an exchange tell each other: bounded lines of JSON, read as hostile input.

``offer``: how a queue pair is reached. ``ready``: it may be sent to. ``sent``: nothing of this end's is under way
any more. ``seen``: what this end saw, in place of any of the others where it had to stop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

#: Of one line. A real one has some 600.
LINE_BYTES = 4096
OFFER, READY, SENT, SEEN = "offer", "ready", "sent", "seen"
#: A small message, and three packets of the largest MTU and a little: FIRST, MIDDLE and LAST.
SMALL_BYTES = 64
LARGEST_BYTES = 2 * 4096 + SMALL_BYTES


class MalformedError(Exception):
    """A line that no end of this program writes."""


@dataclass(frozen=True, slots=True)
class Rail:
    """A port as NCCL will use it.

    ``gid`` is what the index held when it was decided, in 32 digits ("": any); ``node`` the file of its device in
    ``/dev/infiniband``. ``addressing`` is NCCL's way with InfiniBand (:mod:`~sglang_roce_entry.verbs.addressing`),
    "": its release is not known.
    """

    device: str
    port: int
    gid_index: int
    gid: str = ""
    node: str = ""
    traffic_class: int = 0
    service_level: int = 0
    pkey_index: int = 0
    addressing: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """How an end is reached.

    Queue pair and first packet number; GID and MTU (``enum ibv_mtu``) of its port; key and address of what may be
    written to; what its messages are made from; over InfiniBand the LID of its port, which older launchers do not
    know of.
    """

    qp_number: int
    psn: int
    gid: str
    mtu: int
    rkey: int
    address: int
    large_bytes: int
    nonce: str
    lid: int | None = None


Three = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one end saw.

    ``cause`` is what stopped it by itself, empty where nothing did; ``step`` the last it came to, ``number`` the
    errno. ``sent``: the status of the completion of each message (-1: none came); ``got``: how many of the bytes
    ``want`` of the peer's are in memory, from the first on. The port's state and GID are those after the exchange.
    ``lid`` and ``pkey``: over InfiniBand, if they are known.
    """

    device: str
    port: int = 1
    gid: str = ""
    mtu_bytes: int = 0
    cause: str = ""
    step: str = ""
    number: int = 0
    detail: str = ""
    sent: Three = (-1, -1, -1)
    vendor: int = 0
    got: Three = (0, 0, 0)
    want: Three = (0, 0, 0)
    state_after: int = 0
    gid_after: str = ""
    seconds: float = 0.0
    lid: int | None = None
    pkey: int | None = None

    @property
    def complete(self) -> bool:
        """Whether all that the peer sent has arrived."""
        return self.got == self.want and self.want[0] > 0


Message = Offer | Seen | str


def _number(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _unless_absent(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _digits(*lengths: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and len(value) in lengths and set(value) <= set("0123456789abcdef")


def _text(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and len(value) <= most and (value.isprintable() or not value)


def _three(least: int, most: int) -> Callable[[Any], bool]:
    one = _number(least, most)
    return lambda value: isinstance(value, (list, tuple)) and len(value) == 3 and all(map(one, value))


_OF_A_CAUSE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_U16, _U24, _U32, _U64 = (1 << 16) - 1, (1 << 24) - 1, (1 << 32) - 1, (1 << 64) - 1
_OFFER: Mapping[str, Callable[[Any], bool]] = {
    "qp_number": _number(0, _U24),
    "psn": _number(0, _U24),
    "gid": _digits(32),
    "mtu": _number(1, 5),
    "rkey": _number(0, _U32),
    "address": _number(1, _U64),
    "large_bytes": _number(SMALL_BYTES, LARGEST_BYTES),
    "nonce": _digits(32),
    "lid": _unless_absent(_number(0, _U16)),
}
_SEEN: Mapping[str, Callable[[Any], bool]] = {
    "device": _text(64),
    "port": _number(0, 255),
    "gid": _digits(0, 32),
    "mtu_bytes": _number(0, 4096),
    "cause": lambda value: isinstance(value, str) and len(value) <= 32 and set(value) <= _OF_A_CAUSE,
    "step": _text(32),
    "number": _number(0, 4095),
    "detail": _text(400),
    "sent": _three(-1, _U32),
    "vendor": _number(0, _U32),
    "got": _three(0, LARGEST_BYTES),
    "want": _three(0, LARGEST_BYTES),
    "state_after": _number(0, 255),
    "gid_after": _digits(0, 32),
    "seconds": lambda value: isinstance(value, (int, float)) and type(value) is not bool and 0 <= value < 1e6,
    "lid": _unless_absent(_number(0, _U16)),
    "pkey": _unless_absent(_number(0, _U16)),
}


def written(message: Message) -> bytes:
    """Return a message as one line; a text is one of ``READY`` and ``SENT``."""
    if isinstance(message, str):
        document: dict[str, Any] = {"kind": message}
    else:
        document = {"kind": OFFER if isinstance(message, Offer) else SEEN, **asdict(message)}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def read(line: bytes) -> Message:
    """Return the message of a line. Raises :class:`MalformedError`; what it does not know it ignores."""
    if len(line) > LINE_BYTES:
        raise MalformedError(f"a line of {len(line)} bytes")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedError("no JSON") from error
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind == OFFER:
        return Offer(**_checked(document, Offer, _OFFER))
    if kind == SEEN:
        values = _checked(document, Seen, _SEEN)
        threes = {name: tuple(one) for name, one in values.items() if isinstance(one, list)}
        values.update(threes)
        return Seen(**values)
    if kind in (READY, SENT):
        return str(kind)
    raise MalformedError("an unknown kind of message")


def _checked(
    document: Mapping[str, Any], kind: type, checks: Mapping[str, Callable[[Any], bool]]
) -> dict[str, Any]:
    found = {one.name: document.get(one.name) for one in fields(kind)}
    wrong = [name for name, value in found.items() if not checks[name](value)]
    if wrong:
        raise MalformedError(f"no {', '.join(wrong)} of the right kind")
    return found
