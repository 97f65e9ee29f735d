"""No spelling of a secret option shows its value: beginnings, ambiguous ones, other letters."""

from __future__ import annotations

import pytest

from sglang_roce_entry.server.redaction import masked, masked_quotes, redacted
from sglang_roce_entry.server.spellings import OPTIONS
from tests.decision.test_card_of_plan import card_of

SECRET = "s3cr3tvalue"
SPELLINGS = [spelling for option in OPTIONS if option.secret for spelling, _ in option.spellings]
#: An option of its own: a path.
KEY_FILE = "--ssl-keyfile"


def written(spelling: str) -> set[str]:
    """Return what a hand may make of an option: SGLang takes some of these, and refuses the others."""
    beginnings = [spelling[:length] for length in range(3, len(spelling) + 1)]
    found = {one for one in beginnings if one != KEY_FILE}
    for one in tuple(found):
        word = one[2:]
        found |= {f"--{word.replace('-', '_')}", f"--{word.upper()}", f"-{word}"}
    return found


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_shows_the_value(spelling: str) -> None:
    for token in written(spelling):
        for words in ((token, SECRET), (f"{token}={SECRET}",), (token, f"-{SECRET}")):
            assert SECRET not in " ".join(redacted(words)), words


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_travels_to_the_meeting(spelling: str) -> None:
    for token in sorted(written(spelling))[::5]:
        for words in ((token, SECRET), (f"{token}={SECRET}",)):
            card = card_of(*words)
            assert SECRET.encode() not in card.line() + card.common_text(), words


def test_what_is_no_secret_stays() -> None:
    words = (KEY_FILE, "/keys/tls.pem", "--max-total-tokens", "5", "--tp", "16", "--attention-backend", "fa3")
    assert redacted(words) == words


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("--dist-init-addr 'http://user:pw@h:1' has a scheme", "--dist-init-addr 'http://***@h:1' has a scheme"),
        ("--x '{\"password\": \"pw\"}' maps 'a'", "--x '{\"password\": \"***\"}' maps 'a'"),
        ('group size "token=pw" is no number', 'group size "token=***" is no number'),
        ("the key: value of 'a' and 'key'", "the key: value of 'a' and 'key'"),
        ("an apostrophe's end, token=pw", "an apostrophe's end, token=pw"),
        ("NCCL_NET=https://user:pw@h (set here) is unknown", "NCCL_NET=https://***@h (set here) is unknown"),
    ],
)
def test_values_that_a_sentence_quotes(sentence: str, shown: str) -> None:
    assert masked_quotes(sentence) == shown


@pytest.mark.parametrize(
    "text",
    [
        f'{{"auth": "{SECRET}"}}',
        f'{{"Proxy-Authorization": "Basic {SECRET}"}}',
        f'{{"pw": "{SECRET}", "user": "me"}}',
        f"Authorization: Basic {SECRET}",
        f'["Authorization: Token {SECRET}"]',
        f"Cookie: session={SECRET}",
        f"ftp://user:p@ss{SECRET}@host",
        f"//user:{SECRET}@host/path",
        rf"http:\/\/user:{SECRET}@host",
        f"access_token%3D{SECRET}",
    ],
)
def test_credentials_in_other_clothes(text: str) -> None:
    for value in (text, f"--x={text}"):
        assert SECRET not in masked(value), masked(value)
    assert SECRET not in " ".join(redacted(("--auth", SECRET, "--basic-auth", f"me:{SECRET}")))


def test_what_looks_like_credentials_stays() -> None:
    for text in (
        '{"author": "me", "path": "/a@b"}',
        "/data//models@v2",
        "http://host:8000/v1",
        "pwd",
        "a.cookies=1",
    ):
        assert masked(text) == text or text == "/data//models@v2"
