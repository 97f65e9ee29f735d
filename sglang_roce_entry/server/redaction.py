"""What is not shown of a command: values of secret options, credentials in URLs, queries and JSON."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from sglang_roce_entry.problems import EntryError, as_failure
from sglang_roce_entry.server.spellings import begins_secret, find_option

HIDDEN = "***"
#: Words that make a name secret wherever they stand in it, and those that do as its last one: --max-total-tokens,
#: --tokenizer-path, --speculative-token-map and NCCL_IB_PKEY are none.
_ANYWHERE = frozenset(
    [
        "secret",
        "secrets",
        "password",
        "passwords",
        "passwd",
        "passphrase",
        "pwd",
        "credential",
        "credentials",
        "apikey",
        "accesskey",
        "secretkey",
        "privatekey",
        "authtoken",
        "accesstoken",
        "authorization",
    ]
)
_LAST = frozenset(["key", "token", "signature", "sig", "bearer", "sas", "auth", "pw", "cookie"])
#: Only a text with one of these is looked at further: a launch has none, as a rule.
_MARKS = (
    *("key", "token", "secret", "pass", "pw", "credential", "sig", "bearer", "sas", "auth", "cookie"),
    *("@", "\\u"),
)


def is_secret_name(name: str) -> bool:
    """Return whether what has this name, an option, a variable or a key of JSON, must not be shown."""
    lowered = name.lower()
    if not any(mark in lowered for mark in _MARKS):
        return False
    words = _words(name)
    if not words:
        return False
    return words[-1] in _LAST or not _ANYWHERE.isdisjoint(words) or "access_key" in "_".join(words)


def _words(name: str) -> list[str]:
    spaced = "".join(
        f" {one}" if one.isupper() and before.islower() else one
        for before, one in zip(f" {name}", name, strict=False)
    )
    words = re.split(r"[^a-z0-9]+", spaced.lower())
    while words and (not words[-1] or words[-1].isdecimal()):
        words.pop()  # PASSWORD_1
    return [word for word in words if word]


def redacted(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``argv`` with secrets replaced by ``***``, one token for each."""
    shown: list[str] = []
    hide_next = False
    for token in argv:
        name, equals, _ = token.partition("=")
        secret = name.startswith("-") and _is_secret_option(name)
        # Whatever follows is hidden: a key that looks like an option is refused, but is still a key.
        hidden = f"{name}={HIDDEN}" if secret and equals else token if secret else masked(token)
        shown.append(HIDDEN if hide_next else hidden)
        hide_next = secret and not equals
    return tuple(shown)


def _is_secret_option(name: str) -> bool:
    # SGLang refuses --api_key, --API-KEY, --hf-token, and a beginning that several options have; their values are
    # still keys.
    plain = "--" + name.lstrip("-").lower().replace("_", "-")
    option = find_option(plain)
    return option.secret if option is not None else is_secret_name(name) or begins_secret(plain)


def masked_failure(raised: Exception) -> EntryError:
    """Return what was raised as a failure, without the credentials in the values that its sentences quote."""
    failure = as_failure(raised)
    failure.message, failure.hint = masked_quotes(failure.message), masked_quotes(failure.hint)
    return failure


def masked_quotes(sentence: str) -> str:
    """Return a sentence of ours without credentials in URLs, nor those in the values that it quotes."""
    lowered = sentence.lower()
    if not any(mark in lowered for mark in _MARKS):
        return sentence
    sentence = _patterns()[0].sub(f"{HIDDEN}@", sentence)
    return _quoted().sub(lambda quote: f"{quote[0][0]}{masked(quote[0][1:-1])}{quote[0][-1]}", sentence)


@cache
def _quoted() -> re.Pattern[str]:
    """Return the pattern of a value as ``repr`` quotes it."""
    return re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def masked(text: str) -> str:
    """Return a value without the credentials in it: of URLs, queries, JSON and ``name=value`` lists."""
    lowered = text.lower()
    if not any(mark in lowered for mark in _MARKS):
        return text
    start = text.find("=") + 1 if text.startswith("-") else 0
    if text[start:].lstrip()[:1] in ("{", "["):
        try:
            document = json.loads(text[start:])
        except (ValueError, RecursionError):
            return _masked_words(text)
        hidden = _masked_document(document)
        return text if hidden == document else text[:start] + json.dumps(hidden, ensure_ascii="\\u" in text)
    return _masked_words(text)


def _masked_document(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: HIDDEN if is_secret_name(key) and one not in (None, True, False, "") else _masked_document(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_masked_document(one) for one in value]
    return masked(value) if isinstance(value, str) else value


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    return (
        # The user information of a URL; a slash in it only behind a colon that no port follows.
        re.compile(r"(?<=//|\\/)(?:[^\s/\"']{0,4096}|[^\s/:@\"']{0,4096}:(?!\d+/)[^\s\"']{0,4096})@"),
        re.compile(r"^[^\s:/@\"'{}\[\]]+:[^\s/@\"'{}\[\]]+(?=@[^\s@]+$)"),
        re.compile(r"(?i)(?<=\bbearer )\s*[^\s\"']+"),
        # All of the header's value: a scheme (Basic, Token) stands before what is secret.
        re.compile(r"(?i)(\b(?:authorization|cookie)\s*[=:]\s*)[^\"'{}\[\]]+"),
    )


@cache
def _pair() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a name with what leads to its value, and of that value."""
    return (
        re.compile(r"([A-Za-z_][\w.-]{0,127})\\*[\"']?\s*(?:[=:]|%3[Dd])(?!//)\s*"),
        re.compile(r"\\+\"[^\"]*\"|\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;&\"'{}\[\]]+"),
    )


def _masked_words(text: str) -> str:
    of_url, without_scheme, bearer, header = _patterns()
    text = bearer.sub(HIDDEN, without_scheme.sub(HIDDEN, of_url.sub(f"{HIDDEN}@", text)))
    text = header.sub(rf"\1{HIDDEN}", text)
    name_of, value_of = _pair()
    shown, done = "", 0
    for name in name_of.finditer(text):
        value = value_of.match(text, name.end()) if name.start() >= done and is_secret_name(name[1]) else None
        if value is not None:
            shown, done = f"{shown}{text[done : name.end()]}{HIDDEN}", value.end()
    return shown + text[done:]
