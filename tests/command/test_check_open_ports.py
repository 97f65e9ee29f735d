"""--check on who reaches a server's ports, and what keeps others out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.healthy import LEADER, healthy

if TYPE_CHECKING:
    from tests.command.conftest import Run

ATTENTION = ("--enable-dp-attention", "--dp-size", "2")
LEADS = {"LWS_LEADER_ADDRESS": LEADER, "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "0"}
ALONE = {"LWS_LEADER_ADDRESS": "", "LWS_GROUP_SIZE": "", "LWS_WORKER_INDEX": ""}


@pytest.mark.parametrize(
    ("arguments", "environ", "version", "status", "words"),
    [
        ((), {}, "0.5.23", "ok", ("30000 for clients, without an API key", "cannot be seen from inside")),
        (("--api-k", "x"), {}, "0.5.23", "ok", ("30000 for clients, with an API key",)),
        (("--host", "127.0.0.1"), ALONE, "0.5.23", "ok", ("none beyond loopback",)),
        # A worker of attention DP opens none of the leader's ports.
        (ATTENTION, {}, "0.5.10", "ok", ("30000 for clients", "ephemeral ones for the group")),
        (ATTENTION, LEADS, "0.5.23", "ok", ("20001-20006, 20013", "take pickles from the members alone")),
        (
            ATTENTION,
            LEADS,
            "0.5.22",
            "warn",
            (
                "take pickles from everybody",
                "SGLang 0.5.22 has no list",
                "0.5.23 and later do",
                "all ports but 30000",
            ),
        ),
        (ATTENTION, {**LEADS, "SGLANG_ROCE_ZMQ_PEERS": "off"}, "0.5.23", "warn", ("zmq-peers off",)),
        (ATTENTION, {**LEADS, "SGLANG_ROCE_MEETING": "off"}, "0.5.23", "warn", ("from everybody",)),
        (
            (*ATTENTION, "--elastic-ep-backend", "mooncake"),
            LEADS,
            "0.5.23",
            "warn",
            ("from everybody", "who joins later"),
        ),
        (
            ATTENTION,
            {**LEADS, "SGLANG_ZMQ_ALLOWED_PEERS": "10.0.0.11,10.0.0.12"},
            "0.5.23",
            "ok",
            ("take pickles from those in SGLANG_ZMQ_ALLOWED_PEERS",),
        ),
        (
            ATTENTION,
            {**LEADS, "SGLANG_ZMQ_ALLOWED_PEERS": "sglang-0"},
            "0.5.23",
            "warn",
            ("not a list of addresses",),
        ),
    ],
)
def test_open_ports(
    run: Run,
    arguments: tuple[str, ...],
    environ: dict[str, str],
    version: str,
    status: str,
    words: tuple[str, ...],
) -> None:
    node = healthy()
    node.facts["versions"]["sglang"] = version
    ran = run("--check=json", "--model-path", "/m", *arguments, node=node, environ=environ)
    (item,) = [item for item in ran.document["items"] if item["name"] == "open ports"]
    text = f"{item['evidence']} {item['remedy']}"
    assert item["status"] == status, text
    assert [word for word in words if word not in text] == [], text


def test_without_arguments_nothing_is_said(run: Run) -> None:
    items = run("--check=json", node=healthy()).document["items"]
    assert [item["status"] for item in items if item["name"] == "open ports"] == ["skip"]
