"""Who this pod is: the leader's address, the group size and the worker index.

The sources and their order stand in :mod:`~sglang_roce_entry.group.sources`; last comes the pod's name against the
leader's. None at all means one node; an incomplete identity is an error, never a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_roce_entry.group.contradiction import refuse_contradictions
from sglang_roce_entry.group.endpoint import EndpointError, literal, no_host, parse_host
from sglang_roce_entry.group.evidence import lines_of
from sglang_roce_entry.group.sources import (
    ARGUMENTS,
    FIELDS,
    LABEL,
    POD_NAME,
    VARIABLES,
    Claim,
    IdentityInputs,
    controller_claims,
    own_claims,
    refuse_unexpanded,
    whole_number,
)
from sglang_roce_entry.problems import ConfigurationError, Problem, warning
from sglang_roce_entry.unexpanded import was_not_expanded

_MAX_GROUP_SIZE = 100_000
#: The source of the identity of a pod that nothing names a group of.
NONE = "none"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this pod is. ``leader`` is ``None`` on one node without a group."""

    leader: str | None
    size: int
    index: int
    source: str
    problems: tuple[Problem, ...] = ()

    @property
    def is_leader(self) -> bool:
        """Whether this pod has worker index 0."""
        return self.index == 0

    @property
    def in_group(self) -> bool:
        """Whether there are other nodes."""
        return self.size > 1


def resolve_identity(inputs: IdentityInputs) -> Identity:
    """Return who this pod is. Raises :class:`~sglang_roce_entry.problems.ConfigurationError`."""
    refuse_unexpanded(inputs)
    own, controllers = own_claims(inputs), controller_claims(inputs)
    claims = _counted(own, controllers, inputs)
    leader = _leader(claims["leader"])
    size = _number(claims["size"][0], "size", 1, _MAX_GROUP_SIZE) if claims["size"] else None
    name_claim = _by_pod_name(claims, inputs)
    if name_claim is not None:
        claims["index"].append(name_claim)
    index = _number(claims["index"][0], "index", 0, None) if claims["index"] else None
    if not any(claims.values()):
        return Identity(None, 1, 0, NONE)
    if size is None or (size > 1 and (leader is None or index is None)):
        raise _incomplete({"leader": leader, "size": size, "index": index}, inputs.environ)
    if size > 1:
        _refuse_no_host(claims["leader"])
    if index is not None and index >= size:
        raise ConfigurationError(
            "INDEX_OUT_OF_RANGE",
            f"worker index {index} ({claims['index'][0].where}) is not below the group size {size} "
            f"({claims['size'][0].where})",
            "worker indices run from 0 (the leader) to size - 1; correct the manifest's size",
        )
    chosen = {"size": (size, claims["size"][0])}
    if index is not None:
        chosen["index"] = (index, claims["index"][0])
    refuse_contradictions(own, controllers, chosen)
    index = index or 0
    used = dict.fromkeys(claims[field][0].source for field in claims if claims[field])
    return Identity(leader, size, index, " + ".join(used), _name_check(name_claim, index))


def _counted(
    own: Mapping[str, list[Claim]], controllers: Mapping[str, Mapping[str, Claim]], inputs: IdentityInputs
) -> dict[str, list[Claim]]:
    """Return the claims that count for each field: our own, then those of one controller.

    It is the first one that is whole, together with our own and the pod's name; where none is, the first, so that
    what is missing can be said.
    """
    counted = None
    for told in controllers.values():
        claims = {field: [*own[field], *([told[field]] if field in told else [])] for field in FIELDS}
        missing = {field for field in FIELDS if not claims[field]}
        alone = bool(claims["size"]) and whole_number(claims["size"][0], "size") == 1
        if alone or not missing or (missing == {"index"} and _by_pod_name(claims, inputs) is not None):
            return claims
        counted = counted or claims
    return counted or {field: list(claims) for field, claims in own.items()}


def _refuse_no_host(claims: list[Claim]) -> None:
    """Refuse a leader where none can be: the first one counts, and SGLang's arguments stay in the command."""
    for claim in claims:
        address = literal(claim.text.strip().strip("[]"))
        kind = no_host(address) if address is not None else None
        if kind is not None and (claim is claims[0] or claim.source == ARGUMENTS):
            raise ConfigurationError(
                "LEADER_ADDRESS",
                f"leader address {claim.text!r} ({claim.where}) is {kind}",
                "write the leader pod's name or address; LeaderWorkerSet injects LWS_LEADER_ADDRESS",
            )


def _leader(claims: list[Claim]) -> str | None:
    if not claims:
        return None
    claim = claims[0]
    try:
        return parse_host(claim.text.strip())  # the line break of a ConfigMap
    except EndpointError as problem:
        raise ConfigurationError(
            "LEADER_ADDRESS", f"leader address {claim.text!r} ({claim.where}) {problem}", problem.fix
        ) from problem


def _number(claim: Claim, field: str, lowest: int, highest: int | None) -> int:
    what, text = FIELDS[field][0], claim.text.strip()
    number = whole_number(claim, field)
    if number is None or number < 0:
        negative = text.startswith("-") and text[1:].isdecimal()
        raise ConfigurationError(
            "IDENTITY_NUMBER",
            f"{what} {claim.text!r} ({claim.where}) {'is negative' if negative else 'is not a whole number'}",
            f"write a number of at least {lowest}; LeaderWorkerSet v0.6 and later injects it",
        )
    if number < lowest or (highest is not None and number > highest):
        raise ConfigurationError(
            "IDENTITY_NUMBER",
            f"{what} {number} ({claim.where}) is out of range",
            f"write a number of at least {lowest}",
        )
    return number


def _own_names(inputs: IdentityInputs) -> list[tuple[str, str]]:
    names = [(inputs.environ.get("POD_NAME", ""), "POD_NAME")]
    # On hostNetwork these two are the node's name.
    names += [(inputs.environ.get("HOSTNAME", ""), "HOSTNAME"), (inputs.hostname or "", "hostname")]
    return [
        (name.partition(".")[0], where) for name, where in names if name.strip() and not was_not_expanded(name)
    ]


def _by_pod_name(claims: Mapping[str, list[Claim]], inputs: IdentityInputs) -> Claim | None:
    """Return the index that the pod's name gives against the leader's first label.

    LeaderWorkerSet names workers ``<leader>-<index>`` (pod_controller.go); an unrelated name is ignored. So is a
    number that is no index of this group: an Indexed Job's leader is called ``<job>-0-<5 random>``, at times five
    digits.
    """
    leader = _leader(claims["leader"])
    if leader is None or literal(leader) is not None:
        return None
    label = leader.partition(".")[0]
    names = _own_names(inputs)
    for name, where in names:
        if name == label:
            return Claim("0", f"{where} {name!r} is the leader's name", POD_NAME)
    size = (whole_number(claims["size"][0], "size") if claims["size"] else None) or 0
    for name, where in names:
        suffix = name.removeprefix(f"{label}-")
        if (
            suffix != name
            and suffix.isascii()
            and suffix.isdecimal()
            and len(suffix) < 10
            and 0 < int(suffix) < size
        ):
            return Claim(suffix, f"{where} {name!r}", POD_NAME)
    return None


def _incomplete(values: Mapping[str, str | int | None], environ: Mapping[str, str]) -> ConfigurationError:
    have = [f"{FIELDS[field][0]} {value}" for field, value in values.items() if value is not None]
    missing = [field for field, value in values.items() if value is None]
    empty = [
        f"; {name} is set, but empty" for name, field in VARIABLES.items() if field in missing and name in environ
    ]
    hint = "set " + " and ".join(f"{flag} ({variable})" for _, flag, variable in map(FIELDS.__getitem__, missing))
    hint += ", or run under LeaderWorkerSet v0.6 or later, which injects all three"
    if missing == ["index"] and "LWS_GROUP_SIZE" in environ:
        hint += f"; with LeaderWorkerSet 0.5: env LWS_WORKER_INDEX from metadata.labels['{LABEL}worker-index']"
    lines = lines_of(environ)
    return ConfigurationError(
        "HALF_IDENTITY",
        f"incomplete identity: {' and '.join(have)} {'is' if len(have) == 1 else 'are'} known, "
        f"but not the {' or the '.join(FIELDS[field][0] for field in missing)}{''.join(empty)}",
        f"{hint}; {lines}" if lines else hint,
    )


def _name_check(claim: Claim | None, index: int) -> tuple[Problem, ...]:
    if claim is None or int(claim.text) == index:
        return ()
    return (
        warning(
            "POD_NAME_DISAGREES",
            f"worker index is {index}, but the pod's name implies {claim.text} ({claim.where})",
            "check LWS_WORKER_INDEX and --worker-index in the manifest",
        ),
    )


def parse_podinfo(text: str) -> dict[str, str]:
    """Return the ``key="value"`` lines of a downward-API volume file (labels or annotations)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, quoted = line.partition("=")
        if not equals:
            continue
        value = quoted.strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1].replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
        found[key.strip()] = value
    return found
