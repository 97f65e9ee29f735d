"""Whose word counts on who this pod is: one table, in the order of precedence, with how each is read.

Our own settings stand above all and may give single fields; SGLang's own arguments follow. A controller counts
whole or not at all: never one's size with another's index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sglang_roce_entry.problems import ConfigurationError
from sglang_roce_entry.unexpanded import remedy, was_not_expanded

#: What messages call each field, our flag, our variable.
FIELDS = {
    "leader": ("leader address", "--leader-address", "SGLANG_ROCE_LEADER_ADDRESS"),
    "size": ("group size", "--group-size", "SGLANG_ROCE_GROUP_SIZE"),
    "index": ("worker index", "--worker-index", "SGLANG_ROCE_WORKER_INDEX"),
}
SETTINGS, ARGUMENTS, POD_NAME = "settings", "SGLang arguments", "pod name"

LABEL = "leaderworkerset.sigs.k8s.io/"
#: Source, its controller, where it is read from, the name of each field there. LeaderWorkerSet:
#: pkg/utils/pod/pod_utils.go of kubernetes-sigs/lws (LWS_LEADER_ADDRESS since v0.3, _GROUP_SIZE since v0.4,
#: _WORKER_INDEX since v0.6), its labels api/leaderworkerset/v1/leaderworkerset_types.go. RoleBasedGroup 0.7, a
#: role with leaderWorkerPattern: api/workloads/constants/env.go of sgl-project/rbg; the size counts the leader,
#: who is 0. Its RBG_ROLE_INDEX is the replica's, RBG_COMPONENT_INDEX counts workers from 0 again: neither is read.
_CONTROLLERS: tuple[tuple[str, str, str, Mapping[str, str]], ...] = (
    (
        *("LWS_*", "LeaderWorkerSet", "variable"),
        {"leader": "LWS_LEADER_ADDRESS", "size": "LWS_GROUP_SIZE", "index": "LWS_WORKER_INDEX"},
    ),
    (
        *("RBG_LWP_*", "RoleBasedGroup", "variable"),
        {"leader": "RBG_LWP_LEADER_ADDRESS", "size": "RBG_LWP_GROUP_SIZE", "index": "RBG_LWP_WORKER_INDEX"},
    ),
    ("downward API", "LeaderWorkerSet", "label", {"index": f"{LABEL}worker-index"}),
    ("downward API", "LeaderWorkerSet", "annotation", {"size": f"{LABEL}size"}),
)
#: The field of each variable that a controller puts into its pods.
VARIABLES = {
    name: field for _, _, place, names in _CONTROLLERS if place == "variable" for field, name in names.items()
}


class Claim(NamedTuple):
    """What one source gives for one field: the text, and where it was found, for messages.

    A tuple, which every start makes in a quarter of the time that a dataclass takes.
    """

    text: str
    where: str
    source: str


@dataclass(frozen=True, slots=True)
class IdentityInputs:
    """All sources of this pod's identity.

    ``settings`` and ``arguments`` map ``leader``, ``size`` and ``index`` to (text, where it was found).
    """

    settings: Mapping[str, tuple[str, str]]
    arguments: Mapping[str, tuple[str, str]]
    environ: Mapping[str, str]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    hostname: str | None = None


def own_claims(inputs: IdentityInputs) -> dict[str, list[Claim]]:
    """Return what our settings and then SGLang's arguments give for each field."""
    asked = ((inputs.settings, SETTINGS), (inputs.arguments, ARGUMENTS))
    return {
        field: [Claim(*given[field], source) for given, source in asked if given.get(field, ("",))[0].strip()]
        for field in FIELDS
    }


def controller_claims(inputs: IdentityInputs) -> dict[str, dict[str, Claim]]:
    """Return the fields that each controller gives, of those that give any; a chart's empty value is none."""
    found: dict[str, dict[str, Claim]] = {}
    places = {"variable": inputs.environ, "label": inputs.labels, "annotation": inputs.annotations}
    for source, controller, place, names in _CONTROLLERS:
        for field, name in names.items():
            text = places[place].get(name, "")
            if text.strip():
                where = name if place == "variable" else f"{place} {name}"
                found.setdefault(controller, {}).setdefault(field, Claim(text, where, source))
    return found


def names_a_group(environ: Mapping[str, str], keys: Iterable[str]) -> bool:
    """Return whether a variable of a controller's, or one of its labels or annotations (``keys``), is there."""
    return any(environ.get(name, "").strip() for name in VARIABLES) or any(key.startswith(LABEL) for key in keys)


def refuse_unexpanded(inputs: IdentityInputs) -> None:
    """Refuse a ``$(NAME)`` left in SGLang's arguments or a controller's variable: it is never "unset".

    Before precedence, so that it does not lose silently to a name or a lower source. A setting of ours overrules
    that of a controller; SGLang's arguments stand in the command as they are.
    """
    for field, (text, where) in inputs.arguments.items():
        if was_not_expanded(text):
            raise not_expanded(field, text, where, inputs.environ)
        if not text.strip():
            raise ConfigurationError(
                "IDENTITY_NUMBER",
                f"{FIELDS[field][0]} {text!r} ({where}) is empty",
                f"remove {where} from the arguments, it is filled in from the group",
            )
    for name, field in VARIABLES.items():
        text = inputs.environ.get(name, "")
        if was_not_expanded(text) and field not in inputs.settings:
            raise not_expanded(field, text, name, inputs.environ)


def not_expanded(field: str, text: str, where: str, environ: Mapping[str, str]) -> ConfigurationError:
    """Return the failure of a ``$(NAME)`` that was left in the text of ``field``, with the remedy that applies."""
    _, flag, variable = FIELDS[field]
    hint = remedy(text, where, environ, flag, variable)
    if where not in VARIABLES:
        hint += f"; or remove {where}: it is filled in from the group"
    return ConfigurationError("IDENTITY_NOT_EXPANDED", f"{where} {text!r} was not expanded", hint)


def whole_number(claim: Claim, field: str) -> int | None:
    """Return the number of a size or an index, ``None`` if its source does not write one so.

    Digits; in SGLang's arguments whatever its ``type=int`` takes (``02`` and ``+2`` are 2); in our settings an
    index may be a sum, ``0+1``, for controllers that count workers from 0 beside a separate leader.
    """
    text = claim.text.strip()
    if claim.source == ARGUMENTS:
        try:
            return int(text[:20])
        except ValueError:
            return None
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    if claim.source == SETTINGS and field == "index" and re.fullmatch(r"[0-9]{1,9}\+[0-9]{1,9}", text):
        return sum(map(int, text.split("+")))
    return None
