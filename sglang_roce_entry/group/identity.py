"""Who this pod is: the leader's address, the group size and the worker index.

Sources, each completed by the next: our settings, SGLang's own arguments, the variables that
LeaderWorkerSet injects (``LWS_LEADER_ADDRESS`` since v0.3, ``LWS_GROUP_SIZE`` since v0.4,
``LWS_WORKER_INDEX`` since v0.6), the downward API, and the pod's name against the leader's. None at
all means one node; an incomplete identity is an error, never a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_roce_entry.group.endpoint import EndpointError, literal, no_host, parse_host
from sglang_roce_entry.problems import ConfigurationError, Problem, warning

_LABEL = "leaderworkerset.sigs.k8s.io/"
_MAX_GROUP_SIZE = 100_000
_ARGUMENTS = "SGLang arguments"
#: What messages call each field, the variable of LeaderWorkerSet, our flag.
_FIELDS = {
    "leader": ("leader address", "LWS_LEADER_ADDRESS", "--leader-address"),
    "size": ("group size", "LWS_GROUP_SIZE", "--group-size"),
    "index": ("worker index", "LWS_WORKER_INDEX", "--worker-index"),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """What one source gives for one field: the text, and where it was found, for messages."""

    text: str
    where: str
    source: str


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


def resolve_identity(inputs: IdentityInputs) -> Identity:
    """Return who this pod is. Raises :class:`~sglang_roce_entry.problems.ConfigurationError`."""
    _refuse_unexpanded(inputs.arguments)
    claims = {field: _claims(inputs, field) for field in _FIELDS}
    leader = _leader(claims["leader"])
    size = _number(claims["size"][0], "group size", 1, _MAX_GROUP_SIZE) if claims["size"] else None
    name_claim = _by_pod_name(leader, inputs)
    if name_claim is not None:
        claims["index"].append(name_claim)
    index = _number(claims["index"][0], "worker index", 0, None) if claims["index"] else None
    if not any(claims.values()):
        return Identity(None, 1, 0, "none")
    if size is None or (size > 1 and (leader is None or index is None)):
        raise _incomplete({"leader": leader, "size": size, "index": index}, inputs.environ)
    index = 0 if index is None else index
    if size > 1:
        _refuse_no_host(claims["leader"])
    if index >= size:
        claim = claims["index"][0]
        raise ConfigurationError(
            "INDEX_OUT_OF_RANGE",
            f"worker index {index} ({claim.where}) is not below the group size {size} ({claims['size'][0].where})",
            "worker indices run from 0 (the leader) to size - 1; correct the manifest's size",
        )
    _agree(inputs, claims, size, index)
    used = dict.fromkeys(claims[field][0].source for field in claims if claims[field])
    return Identity(leader, size, index, " + ".join(used), _name_check(name_claim, index))


def _claims(inputs: IdentityInputs, field: str) -> list[Claim]:
    asked = ((inputs.settings, "settings"), (inputs.arguments, _ARGUMENTS))
    found = [Claim(*given[field], source) for given, source in asked if field in given]
    name = _FIELDS[field][1]
    found.append(Claim(inputs.environ.get(name, ""), name, "LWS_*"))
    if field == "index":
        key = f"{_LABEL}worker-index"
        found.append(Claim(inputs.labels.get(key, ""), f"label {key}", "downward API"))
    if field == "size":
        key = f"{_LABEL}size"
        found.append(Claim(inputs.annotations.get(key, ""), f"annotation {key}", "downward API"))
    return [claim for claim in found if _is_set(claim.text)]


def _is_set(text: str) -> bool:
    """Return whether a value is there. Kubernetes leaves an unknown ``$(NAME)`` as it is."""
    return bool(text.strip()) and "$(" not in text


def _refuse_unexpanded(arguments: Mapping[str, tuple[str, str]]) -> None:
    """Refuse a number of SGLang's arguments that is empty or a variable: it goes into the command unchanged."""
    for field in ("size", "index"):
        text, where = arguments.get(field, ("0", ""))
        if not _is_set(text):
            name = _FIELDS[field][1]
            raise ConfigurationError(
                "IDENTITY_NUMBER",
                f"{_FIELDS[field][0]} {text!r} ({where}) is empty or was not expanded",
                f"remove {where} from the arguments, it is filled in; $(NAME) needs an env entry NAME above it "
                f"(LeaderWorkerSet injects {name})",
            )


def _refuse_no_host(claims: list[Claim]) -> None:
    """Refuse a leader where none can be: the first one counts, and SGLang's arguments stay in the command."""
    for claim in claims:
        address = literal(claim.text.strip().strip("[]"))
        kind = no_host(address) if address is not None else None
        if kind is not None and (claim is claims[0] or claim.source == _ARGUMENTS):
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
        return parse_host(claim.text)
    except EndpointError as problem:
        raise ConfigurationError(
            "LEADER_ADDRESS", f"leader address {claim.text!r} ({claim.where}) {problem}", problem.fix
        ) from problem


def _number(claim: Claim, what: str, lowest: int, highest: int | None) -> int:
    text = claim.text.strip()
    number = _as_sglang(text) if claim.source == _ARGUMENTS else None
    text = str(number) if number is not None and number >= 0 else text
    negative = text.startswith("-") and text[1:].isdecimal()
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        reason = "is negative" if negative else "is not a whole number"
        raise ConfigurationError(
            "IDENTITY_NUMBER",
            f"{what} {claim.text!r} ({claim.where}) {reason}",
            f"write a number of at least {lowest}; LeaderWorkerSet v0.6 and later injects it",
        )
    value = int(text)
    if value < lowest or (highest is not None and value > highest):
        raise ConfigurationError(
            "IDENTITY_NUMBER",
            f"{what} {value} ({claim.where}) is out of range",
            f"write a number of at least {lowest}",
        )
    return value


def _as_sglang(text: str) -> int | None:
    """Return what SGLang's ``type=int`` makes of a text (``02`` and ``+2`` are 2), ``None`` if it refuses it."""
    try:
        return int(text[:20])
    except ValueError:
        return None


def _own_names(inputs: IdentityInputs) -> list[tuple[str, str]]:
    names = [(inputs.environ.get("POD_NAME", ""), "POD_NAME")]
    # On hostNetwork these two are the node's name.
    names += [(inputs.environ.get("HOSTNAME", ""), "HOSTNAME"), (inputs.hostname or "", "hostname")]
    return [(name.partition(".")[0], where) for name, where in names if _is_set(name)]


def _by_pod_name(leader: str | None, inputs: IdentityInputs) -> Claim | None:
    """Return the index that the pod's name gives against the leader's first label.

    LeaderWorkerSet names workers ``<leader>-<index>`` (pod_controller.go); an unrelated name is ignored.
    """
    if leader is None or literal(leader) is not None:
        return None
    label = leader.partition(".")[0]
    for name, where in _own_names(inputs):
        if name == label:
            return Claim("0", f"{where} {name!r} is the leader's name", "pod name")
        suffix = name.removeprefix(f"{label}-")
        if suffix != name and suffix.isascii() and suffix.isdecimal() and len(suffix) < 10 and int(suffix) > 0:
            return Claim(suffix, f"{where} {name!r}", "pod name")
    return None


def _incomplete(values: Mapping[str, str | int | None], environ: Mapping[str, str]) -> ConfigurationError:
    have = [f"{_FIELDS[field][0]} {value}" for field, value in values.items() if value is not None]
    missing = [_FIELDS[field] for field, value in values.items() if value is None]
    unset = [
        f"; {name}={environ[name]!r} is empty or was not expanded" for _, name, _ in missing if name in environ
    ]
    hint = "run under LeaderWorkerSet v0.6 or later, or set " + " and ".join(flag for _, _, flag in missing)
    if missing == [_FIELDS["index"]]:
        hint += f"; with LeaderWorkerSet 0.5: env LWS_WORKER_INDEX from metadata.labels['{_LABEL}worker-index']"
    return ConfigurationError(
        "HALF_IDENTITY",
        f"incomplete identity: {' and '.join(have)} {'is' if len(have) == 1 else 'are'} known, "
        f"but not the {' or the '.join(what for what, _, _ in missing)}{''.join(unset)}",
        hint,
    )


def _agree(inputs: IdentityInputs, claims: Mapping[str, list[Claim]], size: int, index: int) -> None:
    """Refuse SGLang arguments that contradict the identity: they go into the command unchanged."""
    chosen = {"size": str(size), "index": str(index)}
    for field, names in (("size", "--nnodes"), ("index", "--node-rank"), ("leader", "--dist-init-addr")):
        argument = inputs.arguments.get(field)
        if argument is None:
            continue
        # A setting of ours that agrees with the argument overrules the rest.
        settings = [claim for claim in claims[field] if claim.source == "settings"]
        others = [(one.text.strip(), one.where) for one in settings or claims[field] if one.source != "pod name"]
        contradicting = [(other, where) for other, where in others if not _same(field, argument[0], other)]
        if field != "leader" and not _same(field, argument[0], chosen[field]):
            contradicting.append((chosen[field], claims[field][0].where))
        if contradicting:
            other, where = contradicting[0]
            raise ConfigurationError(
                "IDENTITY_CONTRADICTION",
                f"{names} {argument[0]} ({argument[1]}) contradicts {other} ({where})",
                f"remove {names} from the arguments: it is filled in from the group",
            )


def _same(field: str, one: str, other: str) -> bool:
    if field != "leader":
        return _as_sglang(one) is not None and _as_sglang(one) == _as_sglang(other)
    first, second = (text.strip("[]").rstrip(".").lower() for text in (one, other))
    literals = literal(first), literal(second)
    if all(literals):
        return literals[0] == literals[1]
    if any(literals):
        return True  # a name and an address: this takes a look-up
    # sglang-0.sglang.default and sglang-0.sglang.default.svc.cluster.local are one name.
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return longer == shorter or longer.startswith(f"{shorter}.")


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
