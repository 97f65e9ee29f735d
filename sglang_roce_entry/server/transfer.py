"""Which libraries SGLang's arguments ask for besides NCCL, and what of the fabric this release accepts.

Checked against the real validation functions of 0.5.5.post2 to 0.5.23: see
:mod:`sglang_roce_entry.fabric.consumers.sglang`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang_roce_entry.fabric.use import MOONCAKE, MORI, NIXL, NamedHcas, Use
from sglang_roce_entry.host.facts import Gpu, HostFacts
from sglang_roce_entry.host.installed import parse_version
from sglang_roce_entry.natural import whole_number
from sglang_roce_entry.problems import ConfigurationError
from sglang_roce_entry.server.arguments import UserArguments

_OPTIONS = ("disaggregation_ib_device", "mooncake_ib_device")
_REINDEXED = "SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS"


def read_use(user: UserArguments | None, facts: HostFacts, gpus: Sequence[Gpu], environ: Mapping[str, str]) -> Use:
    """Return what a launch uses; ``gpus`` are the visible ones in order, ``user`` is ``None`` for a bare word."""
    if user is None:
        return Use(gpus=tuple(range(len(gpus))))
    mode, version = user.text("disaggregation_mode"), facts.sglang_version
    backend = (user.text("disaggregation_transfer_backend") or MOONCAKE) if mode in ("prefill", "decode") else None
    others = {user.text(dest) for dest in ("moe_a2a_backend", "elastic_ep_backend", "hicache_storage_backend")}
    named = {dest: _named(user, dest) for dest in _OPTIONS if dest in user.values}
    return Use(
        kv_backend=backend if backend in (MOONCAKE, NIXL) else None,
        mooncake=backend == MOONCAKE or MOONCAKE in others or "mooncake_ib_device" in user.values,
        nixl=backend == NIXL or NIXL in others,
        mori=backend == MORI or MORI in others,
        nvshmem="deepep" in others or "enable_deepep_moe" in user.values,
        named=tuple(named.values()),
        transfer_hcas=named.get("disaggregation_ib_device"),
        gpus=gpus_in_use(user, gpus),
        reindexed=environ.get(_REINDEXED, "").lower() in ("1", "true"),
        sglang_version=version,
        mooncake_version=parse_version(facts.mooncake_version),
        has_option=has_option(version),
        reads_map=reads_map(version),
        nixl_reads_option=nixl_reads_option(version),
    )


def _named(user: UserArguments, dest: str) -> NamedHcas:
    argument = user.values[dest]
    return NamedHcas(argument.where, argument.text, user.files.get(argument.text.strip()))


def gpus_in_use(user: UserArguments, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Return the numbers of the visible GPUs that SGLang will use (``--base-gpu-id``, ``--gpu-id-step``).

    With more than one pipeline stage on a node the step counts within a stage only
    (``srt/entrypoints/engine.py``), so all from the base on are taken.
    """
    try:
        base = user.number("base_gpu_id", 0, lowest=0)
        step = user.number("gpu_id_step", 1)
        stages = user.number("pp_size", 1)
    except ConfigurationError:
        return tuple(range(len(gpus)))  # reported where the command is built
    return tuple(range(base, len(gpus), step if stages == 1 else 1))


def _release(version: str | None) -> tuple[tuple[int, ...], int] | None:
    """Return ``0.5.5.post3`` as ((0, 5, 5), 3), a candidate as its release; ``None`` if it is not a version."""
    plain, _, post = (version or "")[:64].partition(".post")
    numbers = parse_version(plain)
    return (numbers[:3], whole_number(post) or 0) if numbers else None


def reads_map(version: str | None) -> bool:
    """Return whether SGLang of this version reads a map of GPUs to HCAs; an unknown one does not."""
    release = _release(version)
    if release is None:
        return False
    return ((0, 5, 5), 3) <= release < ((0, 5, 9), 0) or release >= ((0, 5, 13), 0)


def has_option(version: str | None) -> bool:
    """Return whether SGLang of this version knows the option; 0.4.5 has prefill and decode without it."""
    release = _release(version)
    return release is None or release >= ((0, 4, 5), 2)


def nixl_reads_option(version: str | None) -> bool:
    """Return whether SGLang's NIXL connector of this version reads the option at all."""
    release = _release(version)
    return release is not None and release >= ((0, 5, 23), 0)
