"""What a peer may say instead of a message: values that no end of ours writes, and lines made of them."""

from __future__ import annotations

import json
from dataclasses import asdict

from hypothesis import strategies as st

from sglang_roce_entry.verbs.messages import LARGEST_BYTES, LINE_BYTES, Offer, Seen

OFFER = Offer((1 << 24) - 1, 0, "f" * 32, 5, (1 << 32) - 1, (1 << 64) - 1, 8256, "0" * 32, (1 << 16) - 1)
SEEN = Seen(
    "mlx5_0", 1, "0" * 32, 4096, "NO_WAY", "send", 110, "d" * 400, (12, 5, -1), 7, (0, 1, 2), (64, 2, 2), 4
)


def _deep(inner: object, levels: int) -> object:
    for _ in range(levels):
        inner = [inner]
    return inner


NUMBERS = st.sampled_from(
    [
        0,
        1,
        -1,
        255,
        256,
        4096,
        1 << 24,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        1 << 63,
        (1 << 64) - 1,
        1 << 64,
        -(1 << 63),
        10**300,
    ]
)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e308, -1e308, float("nan"), float("inf"), float("-inf")])
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            *("", "f" * 31, "f" * 33, "F" * 32, "0x" + "f" * 30, "f" * 16 + " " * 16, "\uff11" * 32, "\x00" * 32),
            *("\ud800", "\u202eNO_WAY", "\x1b[2J", "a\nb", "%d%s%n", "../../x", "9" * 4000, "d" * 401),
        ]
    ),
)  # fmt: skip
ANY = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | FLOATS
    | TEXTS
    | st.integers()
    | st.sampled_from([_deep(1, 900), {"a": {"b": {}}}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*asdict(OFFER), *asdict(SEEN), "kind"]) | TEXTS
LIKE_OURS = st.builds(
    lambda kind, base, changed: {"kind": kind, **base, **changed},
    st.sampled_from(["offer", "seen", "ready", "sent", "go", None]),
    st.sampled_from([asdict(OFFER), asdict(SEEN), {}]),
    st.dictionaries(KEYS, ANY, max_size=3),
)
#: Well formed, whatever it leads to.
OFFERS = st.builds(
    Offer,
    st.integers(0, (1 << 24) - 1), st.integers(0, (1 << 24) - 1),
    st.binary(min_size=16, max_size=16).map(bytes.hex) | st.sampled_from(["0" * 32, "ff" + "0" * 30, f"{'0' * 20}ffff{'0' * 8}"]),
    st.integers(1, 5), st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 64) - 1), st.integers(64, LARGEST_BYTES),
    st.binary(min_size=16, max_size=16).map(bytes.hex), st.none() | st.integers(0, (1 << 16) - 1),
)  # fmt: skip


def line_of(document: object, *, plain: bool = True) -> bytes:
    """Return a document as a line; not ``plain``: with characters as they are, which may be no UTF-8."""
    return json.dumps(document, ensure_ascii=plain).encode("utf-8", "surrogatepass").replace(b"\n", b" ")


LINES = st.one_of(
    st.binary(max_size=200).map(lambda line: line.replace(b"\n", b" ")),
    st.builds(line_of, LIKE_OURS, plain=st.booleans()),
    st.builds(lambda line, end: line[:end], st.builds(line_of, LIKE_OURS), st.integers(0, 400)),
    st.sampled_from(
        [b"", b"{}", b"[" * LINE_BYTES, b'{"a":' * 800, b"9" * LINE_BYTES, b'{"kind":"ready"}' + b" " * LINE_BYTES]
    ),
)
