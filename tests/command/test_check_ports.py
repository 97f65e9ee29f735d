"""--check on ports among those that the kernel gives outgoing connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.healthy import healthy

if TYPE_CHECKING:
    from tests.command.conftest import Run

IPV4 = "/proc/sys/net/ipv4"
USUAL = "32768\t60999\n"


@pytest.mark.parametrize(
    ("port", "outgoing", "reserved", "words"),
    [
        ("40000", USUAL, "", ("40000 (HTTP, --port)", "32768-60999", "such as 8100")),
        ("20050", "10000\t61000\n", "", ("20050 (HTTP", "10000-61000", "below 10000", "such as 8100")),
        ("9100", "8101\t61000\n", "", ("9100", "such as 8100")),
        ("40000", "1024\t65535\n", "", ("40000", "reserve them")),
        ("8100", USUAL, "", ()),
        ("40000", USUAL, "39000-40010,50000", ()),
        ("40000", USUAL, "40001", ("40000",)),
        ("40000", None, "", ()),
    ],
)
def test_ports_of_outgoing_connections(
    run: Run, port: str, outgoing: str | None, reserved: str, words: tuple[str, ...]
) -> None:
    node = healthy()
    node.files[f"{IPV4}/ip_local_reserved_ports"] = f"{reserved}\n"
    if outgoing is not None:
        node.files[f"{IPV4}/ip_local_port_range"] = outgoing
    ran = run("--check=json", "--model-path", "/m", "--port", port, node=node)
    found = [item for item in ran.document["items"] if item["name"] == "ports" and item["status"] == "warn"]
    assert len(found) == bool(words)
    for item in found:
        text = f"{item['evidence']} {item['remedy']}"
        assert [word for word in words if word not in text] == []
    assert ran.code == 0
