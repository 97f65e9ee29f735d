"""The card of a node: what its launcher brings to the meeting, and the cards of others, whatever bytes they are.

What is each node's own travels in the card. What all nodes should share is one flat text of keys and values,
of which the card carries a digest only: the leader asks one member for the text behind each digest, so that
10,000 equal nodes cost what one does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from sys import intern
from typing import Any

from sglang_roce_entry.group.endpoint import MAX_PORT, literal
from sglang_roce_entry.output import one_line

#: Raised only when older launchers could not read a card; what is merely new has a key of its own.
PROTOCOL = 1
#: The longest line of a card or of the text behind a digest.
LINE_BYTES = 65536
#: A hostile card costs its line and no more: texts are cut, lists end.
TEXT_CHARACTERS, VALUE_CHARACTERS, MOST_RAILS, MOST_KEYS = 256, 400, 64, 2000
#: A refusal is the one thing that every pod's log will say.
SENTENCE_CHARACTERS = 600
_LARGEST_GROUP = 1_000_000


class BadCard(ValueError):
    """What came is not a card (or not the text behind its digest); the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Rail:
    """One used port, in the order of the GPUs it serves. ``None``: not known.

    ``routed``: its node has a gateway on it, so that it may reach networks that it is not in. ``proof``: whether
    NCCL needs it, where its node can prove it. ``lid`` is of InfiniBand alone, whose network is the subnet.
    """

    device: str
    port: int
    network: str | None
    gid: str | None
    gid_index: int | None
    rate_gbps: float | None
    roce_mtu: int | None
    routed: bool | None = None
    proof: bool | None = None
    lid: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a launcher cannot start: the problem that decides in its own plan."""

    code: str
    message: str
    hint: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Own:
    """What differs from node to node by nature.

    ``machine`` and ``namespace`` are digests of the kernel's boot id, and of it with the network namespace,
    keyed with the meeting's nonce; ``clock_s`` is the wall clock when the card was made; ``reach_address`` and
    ``reach_port`` are where its neighbours dial it during the meeting; ``sources`` are addresses from which its
    SGLang may call besides.
    """

    address: str | None = None
    interface: str | None = None
    machine: str | None = None
    namespace: str | None = None
    clock_s: float | None = None
    rails: tuple[Rail, ...] = ()
    reach_address: str | None = None
    reach_port: int | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """One member. ``common`` is ``None`` on a card that was read: only the ``digest`` of that text has come."""

    group: str
    size: int
    index: int
    pod: str
    digest: str
    own: Own
    refusal: Refusal | None = None
    common: Mapping[str, str] | None = None

    def line(self) -> bytes:
        """Return the card as one line of JSON, without the text behind its digest."""
        document = {
            "protocol": PROTOCOL,
            "group": self.group,
            "size": self.size,
            "index": self.index,
            "pod": self.pod,
            "digest": self.digest,
            **{name: getattr(self.own, name) for name in _OWN if name != "rails"},
            "rails": [{name: getattr(rail, name) for name in _RAIL} for rail in self.own.rails],
            "refusal": {name: getattr(self.refusal, name) for name in _REFUSAL} if self.refusal else None,
        }
        return _json(document)

    def common_text(self) -> bytes:
        """Return the text behind the digest, as one line of JSON."""
        return _json(self.common)


_OWN, _RAIL, _REFUSAL = (tuple(field.name for field in fields(kind)) for kind in (Own, Rail, Refusal))


def make(
    group: str,
    size: int,
    index: int,
    pod: str,
    own: Own,
    common: Mapping[str, str],
    refusal: Refusal | None = None,
) -> Card:
    """Return the card of this node. Values that no line could hold are cut, and told apart by their digest."""
    kept = {shown(key): _value(value) for key, value in sorted(common.items())[:MOST_KEYS]}
    if len(_json(kept)) > LINE_BYTES:
        kept = _fitting({key: value if len(value) < 32 else _short_digest(value) for key, value in kept.items()})
    own = replace(own, rails=own.rails[:MOST_RAILS])
    if refusal is not None:
        message, hint = (shown(text, SENTENCE_CHARACTERS) for text in (refusal.message, refusal.hint))
        refusal = replace(refusal, message=message, hint=hint)
    return Card(group, size, index, shown(pod), digest_of(_json(kept)), own, refusal, kept)


def _fitting(common: Mapping[str, str]) -> dict[str, str]:
    """Return as many of the keys as one line holds: thousands of variables are not this launcher's."""
    kept, length = {}, 2
    for key, value in common.items():
        length += len(_json({key: value}))
        if length > LINE_BYTES:
            break
        kept[key] = value
    return kept


def read_card(line: bytes) -> Card:
    """Return the card in ``line``; what a newer launcher adds to it is ignored. Raises ``BadCard``."""
    document = _document(line)
    rails = _list(document, "rails")
    refused = document.get("refusal")
    try:
        return Card(
            group=_text(document, "group"),
            size=_whole(document, "size", 1, _LARGEST_GROUP),
            index=_whole(document, "index", 0, _LARGEST_GROUP),
            pod=_text(document, "pod"),
            digest=_text(document, "digest"),
            own=Own(
                address=_text_or_none(document, "address"),
                interface=_text_or_none(document, "interface"),
                machine=_text_or_none(document, "machine"),
                namespace=_text_or_none(document, "namespace"),
                clock_s=_number_or_none(document, "clock_s", 0, 1e11),
                reach_address=_address_or_none(document, "reach_address"),
                reach_port=_whole_or_none(document, "reach_port", 1, MAX_PORT),
                sources=tuple(shown(text) for text in _list(document, "sources") if isinstance(text, str)),
                rails=tuple(_rail(one) for one in rails),
            ),
            refusal=_refusal(refused) if refused is not None else None,
        )
    except (KeyError, TypeError, AttributeError) as failure:
        raise BadCard(f"a field is missing or of another kind: {shown(str(failure))}") from failure


def read_common(text: bytes, digest: str) -> dict[str, str]:
    """Return the keys and values behind ``digest``. Raises ``BadCard``."""
    if digest_of(text) != digest:
        raise BadCard("the text is not the one behind the digest")
    document = _document(text)
    if len(document) > MOST_KEYS or not all(isinstance(value, str) for value in document.values()):
        raise BadCard("the text behind a digest is not one of keys and values")
    return {intern(shown(key)): shown(value, VALUE_CHARACTERS) for key, value in document.items()}


def digest_of(text: bytes) -> str:
    """Return the digest by which a text of keys and values is known."""
    return hashlib.sha256(text).hexdigest()[:32]


def keyed_digest(nonce: str, text: str) -> str:
    """Return a digest of ``text`` that means something in the meeting of this nonce only."""
    return hashlib.blake2b(_bytes(text), key=_bytes(nonce)[:64], digest_size=8).hexdigest()


def shown(text: str, characters: int = TEXT_CHARACTERS) -> str:
    """Return what came from elsewhere as text that a terminal only shows, of a bounded length."""
    if len(text) > characters:
        text = text[:characters] + "..."
    # A lone surrogate would be a raw byte on the terminal.
    return text if text.isprintable() else one_line(_bytes(text).decode())


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _value(value: str) -> str:
    """Return a value for the wire: long ones by their beginning and a digest, so that they still differ."""
    if len(value) <= VALUE_CHARACTERS // 2:
        return shown(value, VALUE_CHARACTERS)
    return shown(value[: VALUE_CHARACTERS // 4], VALUE_CHARACTERS) + f"... ({_short_digest(value)})"


def _short_digest(value: str) -> str:
    return f"sha256 {hashlib.sha256(_bytes(value)).hexdigest()[:12]}"


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()


def _document(line: bytes) -> dict[str, Any]:
    if len(line) > LINE_BYTES:
        raise BadCard(f"longer than {LINE_BYTES} bytes")
    try:
        document = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as failure:
        raise BadCard("not JSON") from failure
    if not isinstance(document, dict):
        raise BadCard("not a JSON object")
    return document


def _no_number(name: str) -> float:
    raise ValueError(name)  # NaN, Infinity


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name, [])
    if not isinstance(value, list) or len(value) > MOST_RAILS:
        raise BadCard(f"{name} is not a list of at most {MOST_RAILS}")
    return value


def _text(document: Mapping[str, Any], name: str, characters: int = TEXT_CHARACTERS) -> str:
    value = document[name]
    if not isinstance(value, str):
        raise BadCard(f"{name} is not a text")
    return shown(value, characters)


def _number(document: Mapping[str, Any], name: str, lowest: float, highest: float) -> float:
    value = document[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
        raise BadCard(f"{name} is not a number from {lowest} to {highest}")
    return value


def _whole(document: Mapping[str, Any], name: str, lowest: int, highest: int) -> int:
    value = _number(document, name, lowest, highest)
    if not isinstance(value, int):
        raise BadCard(f"{name} is not a whole number")
    return value


def _text_or_none(document: Mapping[str, Any], name: str) -> str | None:
    return _text(document, name) if document.get(name) is not None else None


def _whole_or_none(document: Mapping[str, Any], name: str, lowest: int, highest: int) -> int | None:
    return _whole(document, name, lowest, highest) if document.get(name) is not None else None


def _address_or_none(document: Mapping[str, Any], name: str) -> str | None:
    text = _text_or_none(document, name)
    if text is not None and literal(text) is None:
        raise BadCard(f"{name} is not an address")
    return text


def _number_or_none(document: Mapping[str, Any], name: str, lowest: float, highest: float) -> float | None:
    return _number(document, name, lowest, highest) if document.get(name) is not None else None


def _rail(document: Any) -> Rail:
    """Return one rail; there are 80,000 in the largest groups, so the checks are few and in one place."""
    device, port, network, gid, index, rate, mtu, routed, proof, lid = map(document.get, _RAIL)
    for text in (device, network, gid):
        if text is not None and type(text) is not str:
            raise BadCard("a name, network or address of a rail is not a text")
    for number, highest in ((port, 255), (index, 65535), (mtu, 65536), (lid, 65535)):
        if number is not None and (type(number) is not int or not 0 <= number <= highest):
            raise BadCard("a number of a rail is not one, or out of range")
    if rate is not None and (type(rate) not in (int, float) or not 0 <= rate <= 1e6):
        raise BadCard("the rate of a rail is not a number, or out of range")
    return Rail(
        _interned(device) or "?",
        port or 0,
        _interned(network),
        shown(gid) if gid is not None else None,
        index,
        rate,
        mtu,
        routed if type(routed) is bool else None,
        proof if type(proof) is bool else None,
        lid,
    )


def _interned(text: str | None) -> str | None:
    return intern(shown(text)) if text is not None else None


def _refusal(document: Any) -> Refusal:
    return Refusal(
        code=_text(document, "code"),
        message=_text(document, "message", SENTENCE_CHARACTERS + 3),
        hint=_text(document, "hint", SENTENCE_CHARACTERS + 3),
        exit_code=_whole(document, "exit_code", 1, 255),
    )
