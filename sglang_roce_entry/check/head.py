"""The head of a check: versions, image, kernel and NICs, so that its output is a bug report.

It holds no host name, no address and no value of a variable.
"""

from __future__ import annotations

import platform
from typing import Any

from sglang_roce_entry import __version__
from sglang_roce_entry.check.items import Examined
from sglang_roce_entry.host.installed import driver_version
from sglang_roce_entry.report.folding import shortest_names
from sglang_roce_entry.report.text import software

#: PCI vendor and device to what a NIC is sold as (https://pci-ids.ucw.cz).
_MODELS = {
    "0x15b3:0x1017": "ConnectX-5",
    "0x15b3:0x1019": "ConnectX-5 Ex",
    "0x15b3:0x101b": "ConnectX-6",
    "0x15b3:0x101d": "ConnectX-6 Dx",
    "0x15b3:0x101e": "ConnectX virtual function",
    "0x15b3:0x101f": "ConnectX-6 Lx",
    "0x15b3:0x1021": "ConnectX-7",
    "0x15b3:0x1023": "ConnectX-8",
    "0x15b3:0xa2d6": "BlueField-2",
    "0x15b3:0xa2dc": "BlueField-3",
    "0x14e4:0x1750": "BCM57508",
    "0x14e4:0x1760": "BCM57608",
    "0x8086:0x1592": "E810-C",
    "0x8086:0x1593": "E810-C",
}


def head(examined: Examined, server_pid: int | None) -> dict[str, Any]:
    """Return the ``head`` object of ``--check=json``. What is not known is ``None``.

    ``server_pid`` is the process whose SGLang arguments were taken, because none were given.
    """
    facts, inspection = examined.plan.facts, examined.inspection
    nics: dict[tuple[str | None, str | None], list[str]] = {}
    for hca in facts.hcas:
        nics.setdefault((hca.model, inspection.drivers.get(hca.name)), []).append(hca.name)
    return {
        "sglang_roce_entry": __version__,
        "live": examined.live,
        "python": platform.python_version() if examined.live else None,
        "sglang": facts.sglang_version,
        "nccl": list(facts.nccl_versions) if facts.nccl_versions is not None else None,
        "torch": (inspection.packages or {}).get("torch"),
        "distribution": inspection.distribution,
        "glibc": inspection.glibc,
        "rdma_core": inspection.rdma_core,
        "kernel": inspection.kernel,
        "nvidia_driver": _nvidia_driver(inspection.nvidia_driver),
        "nics": [
            {"devices": devices, "model": _MODELS.get(model or ""), "pci_id": model, "driver": driver}
            for (model, driver), devices in nics.items()
        ],
        "server_pid": server_pid,
    }


def _nvidia_driver(line: str | None) -> str | None:
    version = driver_version(line)
    if line is None or version is None:
        return None
    return f"{version} ({'open' if 'Open Kernel Module' in line else 'proprietary'} kernel module)"


def head_lines(examined: Examined, document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the head as pairs of what it is about and the text."""
    entry = f"sglang-roce-entry {document['sglang_roce_entry']}" + ("" if document["live"] else " on a recording")
    software_of = [entry, *software(examined.plan.facts), _known(document, torch="torch ", python="Python ")]
    pid = document["server_pid"]
    lines = [
        ("versions", ", ".join(filter(None, software_of))),
        ("image", _known(document, distribution="", glibc="glibc ", rdma_core="rdma-core ")),
        ("node", _known(document, kernel="kernel ", nvidia_driver="NVIDIA driver ")),
        *(("nic", _nic(nic)) for nic in document["nics"]),
        ("server", f"SGLang's arguments are those of the server that runs here (process {pid})" if pid else ""),
    ]
    return [(title, text) for title, text in lines if text]


def _known(document: dict[str, Any], **names: str) -> str:
    return ", ".join(f"{text}{document[key]}" for key, text in names.items() if document[key])


def _nic(nic: dict[str, Any]) -> str:
    identity = f"{nic['model']} ({nic['pci_id']})" if nic["model"] else nic["pci_id"] or "model not known"
    driver = nic["driver"] or "driver not known"
    return f"{len(nic['devices'])} x {identity}, {driver}: {','.join(shortest_names(nic['devices']))}"
