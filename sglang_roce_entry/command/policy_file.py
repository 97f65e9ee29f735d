"""The policy file: settings as a YAML mapping."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches

from sglang_roce_entry.problems import ConfigurationError

#: ``off`` without quotes is a boolean of YAML 1.1.
_MAY_BE_OFF = ("rdma", "tp", "meeting", "zmq_peers", "prove_rails")


def read_policy(path: str, read_file: Callable[[str], str], known: Collection[str]) -> dict[str, str]:
    """Return the texts in the policy file by their keys, which are ``known``. Raises ``ConfigurationError``."""
    from sglang_roce_entry.yaml_text import read_mapping

    document = read_mapping(
        path,
        read_file,
        code="POLICY",
        what="policy file",
        mount="mount it (ConfigMap) or correct --policy",
        write="write one setting a line, like 'rdma: required'",
        as_written=True,
    )
    found: dict[str, str] = {}
    for key, value in document.items():
        if key not in known:
            raise ConfigurationError(
                "POLICY",
                f"policy file {path!r} has the unknown key {key!r}",
                f"{nearest(str(key), known)} All keys: {', '.join(known)}",
            )
        found[str(key)] = _policy_text(path, str(key), value)
    return found


def _policy_text(path: str, key: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "off" if key in _MAY_BE_OFF else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, str):
        return value
    raise ConfigurationError(
        "POLICY", f"policy file {path!r}: {key} has a value of the wrong kind", "write a text or a list"
    )


def nearest(name: str, known: Collection[str]) -> str:
    """Return the hint for a name that is unknown: the most similar of those that are known."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"did you mean {close[0]}?" if close else "remove it"
