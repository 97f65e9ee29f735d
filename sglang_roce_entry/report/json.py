"""A plan as the JSON contract of ``--dry-run=json`` and ``--print-env=json``, format 1.

``node`` is what a drawing of the node needs beside the decision. ``path`` is what leads to a GPU or HCA: the host
bridge, then the PCI functions down to its own; two that share all but the last two are behind one switch. ``null``
is always "not known".
"""

from __future__ import annotations

import json
from typing import Any

from sglang_roce_entry.fabric.affinity import pci_chain
from sglang_roce_entry.fabric.choice import PortRow
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.host.facts import Gpu, Hca
from sglang_roce_entry.plan.plan import Plan
from sglang_roce_entry.problems import EntryError, Problem
from sglang_roce_entry.report.fingerprint import fingerprint
from sglang_roce_entry.report.matrix import affinity_document, gpus_document
from sglang_roce_entry.report.secrets import shown_argv


def environment_document(plan: Plan) -> dict[str, Any]:
    """Return the ``environment`` object of the JSON contract."""
    return {
        variable.name: {
            "value": variable.value,
            "source": variable.source,
            "reason": variable.reason,
        }
        for variable in plan.variables
    }


def as_document(plan: Plan) -> dict[str, Any]:
    """Return the JSON contract of ``--dry-run=json``, format 1."""
    return {
        "format": 1,
        "identity": identity_document(plan.identity) if plan.identity is not None else None,
        "ports": _ports_document(plan),
        "environment": environment_document(plan),
        "argv": list(shown_argv(plan)) if plan.argv is not None else None,
        "wait": {
            "for": plan.wait.what,
            "host": plan.wait.host,
            "ports": list(plan.wait.ports),
            "deadline_s": plan.wait.deadline_s,
        }
        if plan.wait is not None
        else None,
        "problems": [problem_document(problem) for problem in plan.problems],
        "exit_code": plan.exit_code,
        "gpus": gpus_document(plan.affinity),
        "affinity": affinity_document(plan.affinity),
        "fingerprint": fingerprint(plan),
        "node": _node_document(plan),
    }


def refusal_document(failure: EntryError) -> dict[str, Any]:
    """Return the same where not even a plan can be made: nothing is known but the one problem."""
    return {
        "format": 1,
        "identity": None,
        "ports": [],
        "environment": {},
        "argv": None,
        "wait": None,
        "problems": [problem_document(failure)],
        "exit_code": failure.exit_code,
        "gpus": [],
        "affinity": [],
        "fingerprint": None,
        "node": None,
    }


def identity_document(identity: Identity) -> dict[str, Any]:
    """Return who this pod is, as every contract says it."""
    return {"leader": identity.leader, "size": identity.size, "index": identity.index, "source": identity.source}


def problem_document(problem: Problem | EntryError) -> dict[str, str]:
    """Return one problem, as every contract says it."""
    severity = getattr(problem, "severity", "error")
    return {"severity": severity, "code": problem.code, "message": problem.message, "hint": problem.hint}


def _node_document(plan: Plan) -> dict[str, Any]:
    facts, control = plan.facts, plan.choice.control
    nccl = facts.nccl_versions
    return {
        "gpu_count": plan.gpus.count,
        "gpu_count_source": plan.gpus.source,
        "gpus": [
            {"index": index, "model": gpu.model, **_place(gpu)} for index, gpu in enumerate(plan.gpu_devices)
        ],
        "hcas": [{"device": hca.name, "model": hca.model, **_place(hca)} for hca in facts.hcas],
        "control": {
            "interface": control.interface,
            "address": str(control.address) if control.address is not None else None,
            "reason": control.reason,
        },
        "rdma": plan.choice.constraints.rdma,
        "notes": list(plan.choice.notes),
        "versions": {"sglang": facts.sglang_version, "nccl": list(nccl) if nccl is not None else None},
    }


def _place(device: Gpu | Hca) -> dict[str, Any]:
    path = pci_chain(device.path) if device.path is not None else None
    return {"pci_address": device.pci_address, "numa_node": device.numa_node, "path": path}


def _ports_document(plan: Plan) -> list[dict[str, Any]]:
    positions = {row.decision.label: position for position, row in enumerate(plan.rails)}
    return [_port_document(row, plan, positions.get(row.decision.label)) for row in plan.choice.ports]


def _port_document(row: PortRow, plan: Plan, position: int | None) -> dict[str, Any]:
    decision, network = row.decision, row.network
    return {
        "device": decision.hca.name,
        "port": decision.port.number,
        "used": decision.used,
        "reason": decision.reason,
        "detail": decision.detail,
        "gid_index": row.gid_index,
        "gid": row.gid,
        "netdev": row.netdev,
        "rate_gbps": decision.port.rate_gbps,
        "network": str(network) if network is not None else None,
        "mtu": plan.facts.mtu_of(row.netdev),
        "rail": position,
    }


def as_json(document: Any) -> str:
    """Return a document as JSON text; what is not UTF-8 on the node is escaped."""
    return json.dumps(document, indent=2, ensure_ascii=True) + "\n"
