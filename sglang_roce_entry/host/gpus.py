"""Which GPUs this container may use, and where they sit. Never ``nvidia-smi``: it takes a second.

NVIDIA: ``/dev/nvidia<N>`` that open, and ``/proc/driver/nvidia/gpus/<address>/information`` for the
PCI address, the minor number and the UUID of each. AMD: the nodes of the KFD topology with a
``gpu_id``, and ``/dev/dri/renderD<N>`` that open.
"""

from __future__ import annotations

from dataclasses import replace

from sglang_roce_entry.host.answers import Host
from sglang_roce_entry.host.facts import Gpu, Gpus
from sglang_roce_entry.host.rdma import CLASS, numa_node
from sglang_roce_entry.host.tree import Tree, attribute_or_none, lines_or_empty, names_or_empty
from sglang_roce_entry.natural import natural_key, whole_number

_NVIDIA_NODE = "/dev/nvidia"
_NVIDIA_PROC = "/proc/driver/nvidia/gpus"
_NVIDIA_CAPABILITIES = "/proc/driver/nvidia/capabilities"
_KFD_NODES = "/sys/class/kfd/kfd/topology/nodes"
_RENDER_NODE = "/dev/dri/renderD"


def read_gpus(host: Host, *, places: bool | None = None) -> Gpus:
    """Return the GPUs whose device nodes open here, and where they sit.

    Their places are read only where they decide something, on a node with more than one HCA, unless
    ``places`` asks for them or forbids them.
    """
    if places is None:
        places = len(names_or_empty(host.tree, CLASS)) > 1
    recorded = host.answers.gpu_count()
    nodes = {path: host.answers.open_node(path) for path in host.answers.device_nodes(_NVIDIA_NODE)}
    amd = None if nodes else _amd(host)
    if amd is not None:
        nodes, devices = amd
        opened = sum(gpu.usable for gpu in devices)
        return Gpus(opened if recorded is None else recorded, nodes, devices, "amd")
    opened = sum(answer == "ok" for answer in nodes.values())
    count = recorded if recorded is not None else opened if nodes else None
    return Gpus(count, nodes, _nvidia(host.tree, nodes) if places else ())


def _nvidia(tree: Tree, nodes: dict[str, str]) -> tuple[Gpu, ...]:
    addresses = sorted(name.lower() for name in names_or_empty(tree, _NVIDIA_PROC))
    divided = bool(addresses) and bool(names_or_empty(tree, _NVIDIA_CAPABILITIES))
    gpus = [_nvidia_gpu(tree, address, divided=divided) for address in addresses]
    if any(gpu.minor is None for gpu in gpus):
        # Without minors, only as many nodes as GPUs can be matched: both count in PCI order.
        if len(gpus) != len(nodes):
            return tuple(gpus) if not nodes else ()
        minors = [int(path.removeprefix(_NVIDIA_NODE)) for path in nodes]
        gpus = [replace(gpu, minor=minor) for gpu, minor in zip(gpus, minors)]  # noqa: B905 - equally long
    return tuple(_opened(gpu, nodes) for gpu in gpus) if nodes else tuple(gpus)


def _nvidia_gpu(tree: Tree, address: str, *, divided: bool) -> Gpu:
    pairs = (line.partition(":") for line in lines_or_empty(tree, f"{_NVIDIA_PROC}/{address}/information"))
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    minor = fields.get("Device Minor", "")
    uuid = fields.get("GPU UUID", "")
    path = tree.real(f"/sys/bus/pci/devices/{address}")
    number = whole_number(minor)
    instances = names_or_empty(tree, f"{_NVIDIA_CAPABILITIES}/gpu{number}/mig") if divided else []
    return Gpu(
        pci_address=address,
        path=path,
        numa_node=numa_node(tree, path),
        minor=number,
        # The driver prints question marks while no process has the GPU open.
        uuid=uuid if uuid and "?" not in uuid else None,
        model=fields.get("Model") or None,
        mig=any(name.startswith("gi") for name in instances),
    )


def _opened(gpu: Gpu, nodes: dict[str, str]) -> Gpu:
    return gpu if nodes.get(f"{_NVIDIA_NODE}{gpu.minor}") == "ok" else replace(gpu, usable=False)


def _amd(host: Host) -> tuple[dict[str, str], tuple[Gpu, ...]] | None:
    """Return the GPUs of the KFD topology in its own order, which is HIP's; ``None`` without KFD.

    (Linux drivers/gpu/drm/amd/amdkfd/kfd_topology.c. ``location_id`` is bus << 8 | device << 3 |
    function. A GPU of another container reads EPERM or as gpu_id 0. A partition of an MI300 has its number in
    the bits of the function, later kernels in 31:28: it sits where the whole GPU does.)
    """
    tree = host.tree
    names = sorted(names_or_empty(tree, _KFD_NODES), key=natural_key)
    if not names:
        return None
    nodes: dict[str, str] = {}
    gpus = []
    for name in names:
        if attribute_or_none(tree, f"{_KFD_NODES}/{name}/gpu_id") in (None, "0"):
            continue  # a CPU
        text = attribute_or_none(tree, f"{_KFD_NODES}/{name}/properties")
        words = (text or "").split()
        values = dict(zip(words[::2], words[1::2]))  # noqa: B905 - pairs of name and number
        location, domain, minor = (
            whole_number(values.get(key)) for key in ("location_id", "domain", "drm_render_minor")
        )
        if location is None:
            continue
        slot = f"{domain or 0:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}"
        address = f"{slot}.{location & 7}"
        node = f"{_RENDER_NODE}{minor}"
        nodes[node] = host.answers.open_node(node)
        path = tree.real(f"/sys/bus/pci/devices/{address}") or tree.real(f"/sys/bus/pci/devices/{slot}.0")
        gpus.append(
            Gpu(
                address,
                path,
                numa_node(tree, path),
                minor,
                usable=nodes[node] == "ok",
                model=values.get("device_id"),
            )
        )
    return nodes, tuple(gpus)
