"""TLS on a connection of a probe: ``ssl`` costs an interpreter start and a half, so nothing else loads it."""

from __future__ import annotations

import ssl

from sglang_roce_entry.server.probe.connection import Connection, patience_s


def secure(connection: Connection, protocols: tuple[str, ...] = ()) -> None:
    """Make it a TLS connection, with these protocols to choose from. Raises ``OSError``, of it ``TimeoutError``.

    The certificate is for the Service's name, not for the loopback; kubelet's probes ignore it too.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    connection.socket.settimeout(patience_s(connection.deadline))
    connection.socket = context.wrap_socket(connection.socket)
