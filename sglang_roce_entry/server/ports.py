"""The TCP ports that SGLang will bind, checked against each other before anything is waited for.

SGLang finds a clash only when it binds: the rendezvous after the imports, HTTP after the model is loaded.
"""

from __future__ import annotations

from sglang_roce_entry.group.endpoint import MAX_PORT
from sglang_roce_entry.problems import CONFIGURATION, ConfigurationError, Problem, error
from sglang_roce_entry.server.arguments import UserArguments

DEFAULT_HTTP_PORT = 30000  # SGLang's --port
#: Offsets from the dist-init port D that the leader binds with attention DP
#: (``srt/server_args.py``, ``PortArgs.init_new``; +13 since 0.5.3, ``data_parallel_controller.py``).
ATTENTION_DP_PORTS = (1, 2, 3, 4, 5, 6, 13)


def http_port(user: UserArguments) -> int:
    """Return the port of the HTTP server. Raises ``ConfigurationError`` if it is not a TCP port."""
    port = user.number("port", DEFAULT_HTTP_PORT)
    if port > MAX_PORT:
        where = user.values["port"].where
        raise ConfigurationError(
            "ARGUMENT", f"{where} {port} is out of range", f"write a port from 1 to {MAX_PORT} after {where}"
        )
    return port


def leader_ports(dist_init: int, *, attention_dp: bool) -> tuple[int, ...]:
    """Return the ports besides HTTP that the leader of a group binds; with attention DP some may exceed 65535."""
    offsets = (0, *ATTENTION_DP_PORTS) if attention_dp else (0,)
    return tuple(dist_init + offset for offset in offsets)


def check_ports(dist_init: int, http: int, *, attention_dp: bool) -> list[Problem]:
    """Return what keeps a group's leader from binding its ports, whoever else uses them."""
    ports = leader_ports(dist_init, attention_dp=attention_dp)
    if ports[-1] > MAX_PORT:
        return [
            error(
                "PORTS_OUT_OF_RANGE",
                f"attention DP needs ports {dist_init} to {ports[-1]}, beyond {MAX_PORT}",
                f"choose --dist-init up to {MAX_PORT - ATTENTION_DP_PORTS[-1]}",
                CONFIGURATION,
            )
        ]
    if http in ports:
        role = "--dist-init-addr" if http == dist_init else f"--dist-init-addr + {http - dist_init}, attention DP"
        return [
            error(
                "PORT_CLASH",
                f"SGLang's HTTP port {http} (--port) is also its rendezvous port ({role})",
                "choose another --port, or another --dist-init",
                CONFIGURATION,
            )
        ]
    return []
