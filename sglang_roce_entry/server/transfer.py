"""Prefill and decode on different nodes: which HCAs SGLang's KV transfer is told to use.

Checked against the real validation functions of 0.5.5.post2 to 0.5.23: a JSON map of GPUs to HCAs is
read from 0.5.5.post3 on, but 0.5.9 to 0.5.12 take it for a list and refuse it
(``_validate_ib_devices``). NIXL reads the option from 0.5.23 on, and not if ``UCX_NET_DEVICES`` is set
(``srt/disaggregation/nixl/conn.py``); before that UCX's variable is the only way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.problems import CONFIGURATION, Problem, value_warning
from sglang_roce_entry.server.arguments import Argument, UserArguments

OPTION = "--disaggregation-ib-device"
MOONCAKE, NIXL = "mooncake", "nixl"
MAP_VERSIONS = "0.5.5.post3 to 0.5.8, and 0.5.13 and later"
DESTS = ("disaggregation_ib_device", "mooncake_ib_device")


@dataclass(frozen=True, slots=True)
class Uses:
    """Which libraries beside NCCL SGLang's arguments ask for; ``kv_backend``: of prefill and decode."""

    kv_backend: str | None = None
    mooncake: bool = False
    nixl: bool = False
    nvshmem: bool = False


@dataclass(frozen=True, slots=True)
class Devices:
    """The argument for SGLang (empty: none), and why it is what it is."""

    tokens: tuple[str, ...]
    reason: str


def read_uses(user: UserArguments) -> Uses:
    """Return which libraries the arguments ask for."""
    mode = user.text("disaggregation_mode")
    backend = (user.text("disaggregation_transfer_backend") or MOONCAKE) if mode in ("prefill", "decode") else None
    others = {user.text(dest) for dest in ("moe_a2a_backend", "elastic_ep_backend", "hicache_storage_backend")}
    return Uses(
        kv_backend=backend if backend in (MOONCAKE, NIXL) else None,
        mooncake=backend == MOONCAKE or MOONCAKE in others or "mooncake_ib_device" in user.values,
        nixl=backend == NIXL or NIXL in others,
        nvshmem="deepep" in others or "enable_deepep_moe" in user.values,
    )


def _release(version: str | None) -> tuple[tuple[int, ...], int] | None:
    """Return ``0.5.5.post3`` as ((0, 5, 5), 3), a candidate as its release; ``None`` if it is no version."""
    plain, _, post = (version or "")[:64].partition(".post")
    numbers = []
    for part in plain.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            return None
        numbers.append(int(digits))
    return tuple(numbers), int(post) if post.isdecimal() else 0


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


def device_argument(
    backend: str,
    version: str | None,
    names: Sequence[str],
    per_gpu: Mapping[int, Sequence[str]],
    *,
    reindexed: bool = False,
) -> Devices:
    """Return the argument for ``names``, as a map where ``per_gpu`` says more and SGLang reads one.

    ``reindexed``: each process sees one GPU, as number 0, so the numbers of a map would be wrong.
    """
    if backend == NIXL and not nixl_reads_option(version):
        who = f"SGLang {version}" if version else "SGLang of unknown version"
        return Devices((), f"{who} does not read it with NIXL (0.5.23 and later do)")
    if not has_option(version):
        return Devices((), f"SGLang {version} does not know it (0.4.5.post2 and later do)")
    if not names:
        return Devices((), "no usable HCA port")
    listed = Devices((OPTION, ",".join(names)), "one list for all GPUs")
    says_more = bool(per_gpu) and any(set(devices) != set(names) for devices in per_gpu.values())
    if not says_more:
        return Devices(
            listed.tokens, f"{listed.reason}: what is near to which GPU is not known or the same for all"
        )
    if reindexed:
        return Devices(listed.tokens, f"{listed.reason}: SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS renumbers the GPUs")
    if not reads_map(version):
        who = f"SGLang {version}" if version else "SGLang of unknown version"
        return Devices(listed.tokens, f"{listed.reason}: {who} does not read a map of them")

    mapping = {str(gpu): ",".join(devices) for gpu, devices in sorted(per_gpu.items())}
    return Devices((OPTION, json.dumps(mapping, separators=(",", ":"))), "the nearest HCAs of each GPU")


def check_given(
    user: UserArguments,
    version: str | None,
    devices: Sequence[str],
    unusable: Mapping[str, str],
    gpus: Sequence[int],
) -> list[Problem]:
    """Return what is wrong with HCAs that the user named, as SGLang would find it.

    ``devices`` are all HCAs of the node, ``unusable`` those without a usable port and why, ``gpus`` the
    numbers of the GPUs that will ask.
    """
    problems: list[Problem] = []
    for dest in DESTS:
        argument = user.values.get(dest)
        if argument is not None:
            problems += _check_one(argument, user, version, devices, unusable, gpus)
    return problems


def _check_one(
    argument: Argument,
    user: UserArguments,
    version: str | None,
    devices: Sequence[str],
    unusable: Mapping[str, str],
    gpus: Sequence[int],
) -> list[Problem]:
    text = argument.text.strip()

    def wrong(message: str, hint: str) -> Problem:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        return value_warning("IB_DEVICE", f"{argument.where} {shown!r} {message}", hint, CONFIGURATION)

    remove = f"remove {argument.where}: it is filled in"
    mapping: dict[int, str] = {}
    if text.endswith(".json") or text.startswith("{"):
        parsed = _mapping(text, user)
        if isinstance(parsed, str):
            return [wrong(parsed, remove)]
        mapping = parsed
        if version is not None and not reads_map(version):
            return [wrong(f"is a map, which SGLang {version} does not read ({MAP_VERSIONS} do)", remove)]
    groups = list(mapping.values()) or [text]
    names = [name.strip() for group in groups for name in group.split(",") if name.strip()]
    problems = []
    if not names:
        problems.append(wrong("names no HCA", remove))
    with_port = [name for name in names if ":" in name and name not in devices]
    if with_port:
        problems.append(
            wrong(f"has a port in {', '.join(with_port)}", "write the name alone: mlx5_0, not mlx5_0:1")
        )
    missing = [name for name in dict.fromkeys(names) if name not in devices and name not in with_port]
    if missing:
        known = ", ".join(devices) or "none"
        problems.append(wrong(f"names {', '.join(missing)}, which this node does not have", f"HCAs here: {known}"))
    problems.extend(
        wrong(f"names {name}, which cannot be used here: {unusable[name]}", remove)
        for name in dict.fromkeys(names)
        if name in unusable
    )
    unmapped = [gpu for gpu in gpus if mapping and gpu not in mapping]
    if unmapped:
        listed = ", ".join(map(str, unmapped))
        problems.append(wrong(f"has no HCA for GPU {listed}: SGLang ends with an error", "name every visible GPU"))
    return problems


def _mapping(text: str, user: UserArguments) -> dict[int, str] | str:
    """Return the map of GPUs, or what is wrong with it in words."""
    content: str | None = text
    if text.endswith(".json"):
        content = user.files.get(text)
        if content is None:
            return "is a file that cannot be read"
    try:
        document = json.loads(content or "")
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(document, dict) or not document:
        return "is not a JSON object of GPU numbers"
    found: dict[int, str] = {}
    for key, value in document.items():
        if not key.isdecimal() or not isinstance(value, str):
            return f"maps {key!r} to {value!r}: keys are GPU numbers, values are names with commas"
        found[int(key)] = value
    return found
