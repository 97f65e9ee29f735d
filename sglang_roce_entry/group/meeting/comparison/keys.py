"""The table of keys: how each is called in a sentence, what its difference is called, and how grave that is.

An argument's key is its spelling (``--dtype``), a variable's its name (``NCCL_IB_TC``); every other key stands
here. Which arguments all ranks must share is SGLang's to say, and is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container
from dataclasses import dataclass

from sglang_roce_entry.problems import CONFIGURATION, RDMA_UNUSABLE

ERROR, WARNING, INFO = "error", "warning", "info"
ABSENT = "not set"
#: From this release on NCCL's receiver takes the smaller MTU of both ends (NVIDIA/nccl#1524).
_NCCL_WITH_SMALLER_MTU = (2, 29)


@dataclass(frozen=True, slots=True)
class Key:
    """One thing that is compared. ``value``: a wrong value of the user's, which ``strict`` makes an error.

    ``explained_by``: where one of these differs between the same nodes, this one differs because of it.
    """

    name: str
    subject: str
    code: str
    severity: str
    hint: str
    exit_code: int = CONFIGURATION
    value: bool = False
    explained_by: tuple[str, ...] = ()


_SAME_IMAGE = "give all pods of the group the same image, by digest: a tag may name two"
_SAME_MANIFEST = "give all pods of the group the same args and env: one pod template, applied to all of them"
_LOOK_AT_NODE = "compare the nodes: sglang-roce-entry --dry-run on each"
_OFF = ("rdma",)

KEYS: tuple[Key, ...] = (
    Key("size", "the group's size", "GROUP_SIZE_DIFFERS", ERROR, _SAME_MANIFEST),
    Key("sglang", "SGLang's release", "SGLANG_DIFFERS", ERROR, _SAME_IMAGE),
    Key(
        "gpus",
        "the number of GPUs",
        "GPUS_DIFFER",
        WARNING,
        "request the same number of GPUs in every pod (nvidia.com/gpu); see which are missing: ls /dev/nvidia*",
        value=True,
    ),
    Key(
        "rdma",
        "RDMA",
        "RDMA_DIFFERS",
        ERROR,
        "NCCL cannot connect the two: see the other node's log for why its ports are not used; without RDMA "
        "anywhere: --rdma off on all",
        RDMA_UNUSABLE,
    ),
    Key(
        "family",
        "the rails' address family",
        "FAMILY_DIFFERS",
        ERROR,
        "give every node's rails an address of one family, or name it: --family ipv4",
        RDMA_UNUSABLE,
        explained_by=_OFF,
    ),
    Key(
        "roce_mtu",
        "the rails' RoCE MTU",
        "ROCE_MTU_DIFFERS",
        WARNING,
        "give the interfaces of all rails the same MTU on every node and switch; 4200 carries 4096 bytes: "
        "ip -br link; ibv_devinfo | grep active_mtu",
        RDMA_UNUSABLE,
        value=True,
        explained_by=_OFF,
    ),
    Key(
        "rails",
        "the number of rails",
        "RAILS_DIFFER",
        WARNING,
        _LOOK_AT_NODE,
        RDMA_UNUSABLE,
        value=True,
        explained_by=_OFF,
    ),
    Key(
        "rail_rates",
        "the rails' rate in Gb/s",
        "RAILS_DIFFER",
        WARNING,
        "check cable and transceiver of the slower one: cat /sys/class/infiniband/*/ports/*/rate",
        RDMA_UNUSABLE,
        value=True,
        explained_by=(*_OFF, "rails"),
    ),
    Key(
        "gpu_model",
        "the GPUs' model",
        "GPUS_DIFFER",
        WARNING,
        "the slowest one sets the pace: use nodes of one kind",
    ),
    Key(
        "nvlink_domain",
        "the way into an NVLink domain",
        "GPUS_DIFFER",
        WARNING,
        "request an IMEX channel (a ComputeDomain) in all pods of the group or in none: ls "
        "/dev/nvidia-caps-imex-channels",
    ),
    Key("nccl", "NCCL's release", "VERSION_DIFFERS", WARNING, _SAME_IMAGE),
    Key("torch", "torch's release", "VERSION_DIFFERS", WARNING, _SAME_IMAGE),
    Key("mooncake", "Mooncake's release", "VERSION_DIFFERS", WARNING, _SAME_IMAGE),
    Key("nvshmem", "NVSHMEM's release", "VERSION_DIFFERS", WARNING, _SAME_IMAGE),
    Key(
        "driver",
        "the GPU driver's release",
        "VERSION_DIFFERS",
        WARNING,
        "bring the nodes to one driver: cat /proc/driver/nvidia/version",
    ),
    Key("launcher", "this launcher's release", "VERSION_DIFFERS", WARNING, _SAME_IMAGE),
)
KEYS_BY_NAME = {key.name: key for key in KEYS}
#: Arguments come behind what the group and its image are, before what is read from the hardware.
_PLACES = {key.name: place for place, key in enumerate(KEYS)}
_ARGUMENTS = _PLACES["gpus"]
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
#: What the settings of a group explain of its arguments.
_SIZES = {"--nnodes": ("size",), "--tp-size": ("size", "gpus")}


def find_key(name: str, must_agree: Container[str], told_only: Container[str]) -> Key | None:
    """Return how ``name`` is compared, ``None`` for what only another release of the launcher knows."""
    if name in KEYS_BY_NAME:
        return KEYS_BY_NAME[name]
    if name.startswith("--"):
        severity = ERROR if name in must_agree else INFO if name in told_only else WARNING
        explained = _SIZES.get(name, ())
        value = severity == WARNING
        return Key(name, name, "ARGUMENT_DIFFERS", severity, _SAME_MANIFEST, value=value, explained_by=explained)
    if _VARIABLE.fullmatch(name):
        return Key(name, name, "VARIABLE_DIFFERS", WARNING, _SAME_MANIFEST, value=True, explained_by=_OFF)
    return None


def rank_of(name: str) -> tuple[int, str]:
    """Return the place of a key among the stages of a launch: the first error decides the exit code."""
    if name.startswith("--"):
        return _ARGUMENTS, name
    place = _PLACES.get(name, len(KEYS))
    return place + (place >= _ARGUMENTS), name


def severity_of(key: Key, differing: Collection[str], nccl: Collection[str]) -> str:
    """Return how grave the difference is here: ``nccl`` are the releases of NCCL in the group.

    GPUs that differ in number break a group only where SGLang's sizes come from them.
    """
    if key.name == "gpus" and "--tp-size" in differing:
        return ERROR
    if key.name == "roce_mtu" and any(_is_before(text, _NCCL_WITH_SMALLER_MTU) for text in nccl):
        return ERROR
    return key.severity


def _is_before(release: str, first: tuple[int, ...]) -> bool:
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", release)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < first
