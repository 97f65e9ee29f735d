"""Which GPUs SGLang will see on this node, and in which order.

``gpus`` setting; else the entries of ``CUDA_VISIBLE_DEVICES``; else of an index or UUID list in
``NVIDIA_VISIBLE_DEVICES`` (``all``, ``void``, ``none`` and paths give no number); else the
``/dev/nvidia<N>`` that open. On AMD, ``ROCR_VISIBLE_DEVICES`` counts the node's GPUs and
``HIP_VISIBLE_DEVICES`` (or ``CUDA_VISIBLE_DEVICES``) those that it leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_roce_entry.host.facts import Gpu, Gpus
from sglang_roce_entry.problems import Problem, config_value

_NO_NUMBER = frozenset({"all", "void", "none", ""})
_CUDA, _NVIDIA = "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"
_ROCR, _HIP = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
_PREFIXES = ("GPU-", "MIG-")


@dataclass(frozen=True, slots=True)
class GpuCount:
    """How many GPUs this process will see, ``None`` if unknown, and where the number comes from."""

    count: int | None
    source: str


@dataclass(frozen=True, slots=True)
class VisibleGpus:
    """The GPUs of the process: their number, and each of them in order where that is known."""

    count: GpuCount
    devices: tuple[Gpu, ...] = ()
    problems: tuple[Problem, ...] = ()


def see_gpus(setting: tuple[int, str] | None, environ: Mapping[str, str], gpus: Gpus) -> VisibleGpus:
    """Return what the process will see of ``gpus``; ``setting`` is (number, where it was written)."""
    present = tuple(gpu for gpu in gpus.devices if gpu.usable)
    if gpus.vendor == "amd":
        return _amd(setting, environ, gpus, present)
    devices, length, problems = _in_order(environ, present, gpus.count)
    count, disagreeing = count_gpus(setting, environ, gpus.count, length)
    problems += [*disagreeing, *_mig(environ, present)]
    if count.count is not None and devices:
        devices = devices[: count.count] if count.count <= len(devices) else ()
    return VisibleGpus(count, devices, tuple(problems))


def count_gpus(
    setting: tuple[int, str] | None, environ: Mapping[str, str], nodes: int | None, cuda: int | None = None
) -> tuple[GpuCount, list[Problem]]:
    """Return the number of GPUs and where it comes from; ``setting`` is (number, where it was written).

    ``cuda`` is how many of ``CUDA_VISIBLE_DEVICES`` exist here, where that is known.
    """
    counts: list[GpuCount] = []
    if setting is not None:
        counts.append(GpuCount(*setting))
    visible = environ.get(_CUDA)
    if visible is not None:
        named = len(_entries(visible)) if cuda is None else cuda
        counts.append(GpuCount(named, f"{_CUDA}={visible}"))
    nvidia = environ.get(_NVIDIA, "")
    listed = _nvidia_devices(nvidia)
    if listed is not None:
        counts.append(GpuCount(len(listed), f"{_NVIDIA}={nvidia}"))
    if nodes is not None:
        counts.append(GpuCount(nodes, "/dev/nvidia* that open"))
    if not counts:
        return GpuCount(None, "cannot be determined"), []
    chosen = counts[0]
    problems = [_disagree(chosen, other) for other in counts[1:] if _contradicts(chosen, other)]
    return chosen, problems


def _disagree(chosen: GpuCount, other: GpuCount) -> Problem:
    return config_value(
        "GPUS_DISAGREE",
        f"{chosen.count} GPUs according to {chosen.source}, but {other.count} according to {other.source}",
        "correct the one that is wrong; the first is used",
    )


def _contradicts(chosen: GpuCount, other: GpuCount) -> bool:
    # Fewer than there are is an ordinary choice; more than there are cannot be.
    return other.count is not None and (chosen.count or 0) > other.count


def _entries(text: str) -> list[str]:
    """Return the entries that name a device; a visible-devices list ends at the first that does not."""
    found = []
    for part in text.split(","):
        entry = part.strip()
        if not (entry.isascii() and entry.isdecimal()) and not entry.startswith(_PREFIXES):
            break
        found.append(entry)
    return found


def _nvidia_devices(text: str) -> list[str] | None:
    if text in _NO_NUMBER or "/" in text:
        return None
    entries = [part.strip() for part in text.split(",") if part.strip()]
    if not all(entry.isdecimal() or entry.startswith(_PREFIXES) for entry in entries):
        return None
    return entries


def _in_order(
    environ: Mapping[str, str], present: tuple[Gpu, ...], count: int | None
) -> tuple[tuple[Gpu, ...], int | None, list[Problem]]:
    """Return the GPUs of the process in order (empty: not known), how many a list leaves, and what is wrong.

    The number is ``None`` without a list.
    """
    injected = _injected(environ, present)
    total = len(injected) if injected else count
    visible = environ.get(_CUDA)
    if visible is None:
        return injected, None, []
    problems = []
    entries = _entries(visible)
    chosen, stop = _choose(entries, injected, total)
    if stop is not None:
        here = f"{total} (0 to {total - 1})" if total else "none"
        problems.append(
            _wrong(f"{_CUDA}={visible} names {stop}, and CUDA ends the list there; GPUs of this container: {here}")
        )
        entries = entries[: entries.index(stop)]
    elif len(entries) < len([part for part in visible.split(",") if part.strip()]) and not visible.startswith("-"):
        problems.append(
            _wrong(f"{_CUDA}={visible} has an entry that does not name a GPU, and CUDA ends the list there")
        )
    if len(set(entries)) < len(entries):
        problems.append(_wrong(f"{_CUDA}={visible} names a GPU twice; CUDA then shows none or fails"))
    if len({gpu.model for gpu in injected}) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        # CUDA counts the fastest first, and which that is cannot be read here.
        return (), len(entries), problems
    return tuple(chosen), len(entries), problems


def _injected(environ: Mapping[str, str], present: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs that the container runtime was asked for; their order is still the driver's.

    Indices in ``NVIDIA_VISIBLE_DEVICES`` are the host's: they mean something here only where more GPUs
    than listed can be opened (a privileged container).
    """
    listed = _nvidia_devices(environ.get(_NVIDIA, ""))
    if not listed or len(listed) >= len(present):
        return present
    by_name = {gpu.uuid: gpu for gpu in present if gpu.uuid}
    by_name.update({str(position): gpu for position, gpu in enumerate(present)})
    wanted = [by_name[entry] for entry in listed if entry in by_name]
    return tuple(gpu for gpu in present if gpu in wanted) if len(wanted) == len(listed) else present


def _choose(entries: Sequence[str], present: tuple[Gpu, ...], total: int | None) -> tuple[list[Gpu], str | None]:
    """Return the GPUs of a list of indices and UUIDs, and the first entry that is not one of them."""
    chosen: list[Gpu] = []
    known = all(gpu.uuid for gpu in present)
    for entry in entries:
        if entry.isdecimal():
            index = int(entry.lstrip("0")[:10] or "0")  # a longer number is not a GPU either
            if total is not None and index >= total:
                return chosen, entry
            if index < len(present):
                chosen.append(present[index])
        elif entry.startswith("GPU-") and present and known:
            # A UUID may be shortened as long as it is unique.
            matching = [gpu for gpu in present if gpu.uuid and gpu.uuid.startswith(entry)]
            if len(matching) != 1:
                return chosen, entry
            chosen.append(matching[0])
    return chosen if len(chosen) == len(entries) else [], None


def _wrong(message: str) -> Problem:
    return config_value(
        "VISIBLE_DEVICES",
        message,
        "correct or remove it: the container runtime already shows only the pod's GPUs",
    )


def _mig(environ: Mapping[str, str], present: tuple[Gpu, ...]) -> Iterator[Problem]:
    named = [name for name in (_CUDA, _NVIDIA) if "MIG-" in environ.get(name, "")]
    divided = [gpu.pci_address or "?" for gpu in present if gpu.mig]
    if not named and not divided:
        return
    where = f"{named[0]}={environ[named[0]]}" if named else f"the GPU at {', '.join(divided)}"
    yield config_value(
        "MIG_UNSUPPORTED",
        f"{where}: MIG instances are not supported: NCCL connects whole GPUs, and no HCA is near an instance",
        "request whole GPUs (nvidia.com/gpu), or switch MIG off on the node",
    )


def _amd(
    setting: tuple[int, str] | None, environ: Mapping[str, str], gpus: Gpus, present: tuple[Gpu, ...]
) -> VisibleGpus:
    problems: list[Problem] = []
    devices, count = present, GpuCount(gpus.count, "GPUs of the KFD topology whose /dev/dri node opens")
    hip = _HIP if _HIP in environ else _CUDA
    for name in (_ROCR, hip):
        text = environ.get(name)
        if text is None:
            continue
        entries = _entries(text)
        chosen, stop = _choose(entries, devices, len(devices))
        if stop is not None:
            problems.append(_wrong(f"{name}={text} names {stop}; GPUs of this container: {len(devices)}"))
        devices, count = tuple(chosen), GpuCount(len(chosen) if chosen else len(entries), f"{name}={text}")
    if setting is not None:
        given = GpuCount(*setting)
        if _contradicts(given, count):
            problems.append(_disagree(given, count))
        devices = devices[: setting[0]] if setting[0] <= len(devices) else ()
        count = given
    return VisibleGpus(count, devices, tuple(problems))
