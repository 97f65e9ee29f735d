"""Arguments and releases of SGLang that cannot work in a group as they are."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.group.endpoint import Endpoint, literal
from sglang_roce_entry.group.identity import Identity
from sglang_roce_entry.host.installed import parse_version
from sglang_roce_entry.problems import Problem, config_error, warning
from sglang_roce_entry.server.arguments import UserArguments
from sglang_roce_entry.server.ports import OVERRIDE, overridden


def check_group(user: UserArguments, node: Identity) -> list[Problem]:
    """Return what ``--use-ray`` makes of a group: Ray starts the ranks of all nodes (``srt/ray/engine.py``)."""
    if node.size == 1 or "use_ray" not in user.values:
        return []
    if node.is_leader:
        return [
            warning(
                "USE_RAY",
                "--use-ray: Ray starts the ranks on the other nodes, which must run 'ray start' and not SGLang",
                "give the workers 'ray start --block --address=...' as args, or remove --use-ray",
            )
        ]
    return [
        config_error(
            "USE_RAY",
            f"--use-ray on worker {node.index} would start a second server: Ray starts the ranks of all nodes",
            "give the workers 'ray start --block --address=...' as args, or remove --use-ray",
        )
    ]


def check_ipv6(
    user: UserArguments, node: Identity, endpoint: Endpoint | None, version: str | None, *, only_ipv6: bool
) -> list[Problem]:
    """Return the trap of attention DP over IPv6 with SGLang 0.5.4 to 0.5.9 (sgl-project/sglang#15832, #21917).

    They bind the sockets of the ranks to ``tcp://*`` without ZeroMQ's IPv6 option
    (``srt/managers/data_parallel_controller.py``): IPv4 only. From 0.5.10 on it is the leader's address.
    """
    address = literal(endpoint.host) if endpoint is not None else None
    six = only_ipv6 or (address is not None and address.version == 6)
    release = parse_version(version)
    if not (six and node.size > 1 and user.attention_dp and release and (0, 5, 4) <= release < (0, 5, 10)):
        return []
    return [
        config_error(
            "ATTENTION_DP_IPV6",
            f"SGLang {version} hangs for ever with attention DP over IPv6: it binds sockets to IPv4 only",
            "use SGLang 0.5.10 or later, or IPv4 addresses for the group",
        )
    ]


def check_override(environ: Mapping[str, str], version: str | None, node: Identity, port: int) -> list[Problem]:
    """Return that the rendezvous is somebody else's, so that nobody opens D."""
    if node.size == 1 or not overridden(environ, version):
        return []
    return [
        warning(
            "RENDEZVOUS_OVERRIDDEN",
            f"{OVERRIDE}={environ[OVERRIDE]}: no SGLang opens the rendezvous port {port}, so it is not waited for",
            "its store (MASTER_ADDR, MASTER_PORT) must be there before the pods; else remove the variable",
        )
    ]
