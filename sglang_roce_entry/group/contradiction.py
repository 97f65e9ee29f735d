"""Two who name this pod's group differently: nothing is started on either's word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sglang_roce_entry.group.endpoint import literal
from sglang_roce_entry.group.sources import ARGUMENTS, FIELDS, SETTINGS, Claim, whole_number
from sglang_roce_entry.problems import ConfigurationError

#: SGLang's own arguments.
_ARGUMENT = {"size": "--nnodes", "index": "--node-rank", "leader": "--dist-init-addr"}


def refuse_contradictions(
    own: Mapping[str, Sequence[Claim]],
    controllers: Mapping[str, Mapping[str, Claim]],
    chosen: Mapping[str, tuple[int, Claim]],
) -> None:
    """Refuse two sources that differ on a field, unless a setting of ours agrees with one of them.

    ``chosen`` are size and index with the claim that gave each, the pod's name among them. SGLang's arguments go
    into the command unchanged, so that they must agree with what is chosen in any case.
    """
    for field in FIELDS:
        told = [claims[field] for claims in controllers.values() if field in claims]
        settings = [claim for claim in own[field] if claim.source == SETTINGS]
        for argument in (claim for claim in own[field] if claim.source == ARGUMENTS):
            other = next(_against(argument, field, settings or told, chosen.get(field)), None)
            if other is not None:
                raise ConfigurationError(
                    "IDENTITY_CONTRADICTION",
                    f"{_ARGUMENT[field]} {argument.text} ({argument.where}) contradicts {other}",
                    f"remove {_ARGUMENT[field]} from the arguments: it is filled in from the group",
                )
        if len(told) > 1 and not _same(field, *told):
            if any(_same(field, setting, one) for setting in settings for one in told):
                continue
            first, second = (f"{claim.text.strip()} ({claim.where})" for claim in told)
            raise ConfigurationError(
                "IDENTITY_CONTRADICTION",
                f"{FIELDS[field][0]} {first} contradicts {second}",
                f"take the one that is not this pod's out of the pod template, or set {FIELDS[field][1]}",
            )


def _against(
    argument: Claim, field: str, others: Sequence[Claim], chosen: tuple[int, Claim] | None
) -> Iterator[str]:
    """Yield what an argument of SGLang's contradicts."""
    for other in others:
        if not _same(field, argument, other):
            yield f"{other.text.strip()} ({other.where})"
    if chosen is not None and whole_number(argument, field) != chosen[0]:
        yield f"{chosen[0]} ({chosen[1].where})"


def _same(field: str, one: Claim, other: Claim) -> bool:
    if field != "leader":
        number = whole_number(one, field)
        return number is not None and number == whole_number(other, field)
    first, second = (claim.text.strip().strip("[]").rstrip(".").lower() for claim in (one, other))
    literals = literal(first), literal(second)
    if all(literals):
        return literals[0] == literals[1]
    if any(literals):
        return True  # a name and an address: this takes a look-up
    # sglang-0.sglang.default and sglang-0.sglang.default.svc.cluster.local are one name.
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return longer == shorter or longer.startswith(f"{shorter}.")
