"""Scenarios in the guest: what the proof of eight rails between two nodes costs, and what it bears."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel.group_proof import prove, prove_apart
from tests.kernel.node import OUT, is_listening, run, until
from tests.kernel.segments import condition, lay_segments
from tests.kernel.situations import RAILS

if TYPE_CHECKING:
    from tests.kernel.node import Command
    from tests.kernel.segments import Port

Result = dict[str, Any]
ROUNDS = 3
PINGPONG_PORT = 18515
#: No more than this may be pinned by a node: the kernel refuses what goes beyond, without CAP_IPC_LOCK.
PINNED_BYTES = (1 << 20) - 1
LITTLE_MEMORY = (
    *("setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"),
    *("prlimit", f"--memlock={PINNED_BYTES}:{PINNED_BYTES}"),
)
LOSSES, DELAYS_MS = (0, 5, 10, 15, 20), (1, 25, 50, 100)
ALL = [(loss, delay_ms) for loss, delay_ms in itertools.product(LOSSES, DELAYS_MS)]
#: Of each loss one, the corners first.
SOME = ((20, 1), (20, 100), (0, 100), (10, 50), (5, 25))
#: How many exchanges are asked for, if that is there.
ASKED = OUT / "lossy-exchanges"


def eight_rails(command: Command) -> Result:
    """Prove eight rails, in turns with `ibv_rc_pingpong` over one of them: with ten messages, once with its thousand."""
    nodes = lay_segments(2, RAILS)
    rails = {node: [port.verbs_rail() for port in ports] for node, ports in enumerate(nodes)}
    condition([port for ports in nodes for port in ports], "delay 100us")
    proofs, shorts = [], []
    for _ in range(ROUNDS):
        proofs.append(prove(rails))
        shorts.append(_pingpong(nodes[0][0], nodes[1][0], "-n", "10"))
    return {
        "proofs": proofs,
        "proof_s": statistics.median(one["seconds"] + one["start_s"] for one in proofs),
        "exchange_s": statistics.median(one["seconds"] for one in proofs),
        "pingpong_s": _pingpong(nodes[0][0], nodes[1][0]),
        "short_pingpong_s": statistics.median(shorts),
        "with little memory": prove_apart(rails, *LITTLE_MEMORY),
    }


def _pingpong(server: Port, client: Port, *options: str) -> float:
    """Return the seconds from the start of the server to the end of both."""
    program = ["ibv_rc_pingpong", "-p", str(PINGPONG_PORT), *options]
    started_s = time.monotonic()
    listening = subprocess.Popen(
        [*program, "-d", server.device, "-g", str(server.index_of(server.ipv4))], stdout=subprocess.DEVNULL
    )
    until(lambda: is_listening(PINGPONG_PORT), "ibv_rc_pingpong listens")
    run(*program, "-d", client.device, "-g", str(client.index_of(client.ipv4)), "127.0.0.1")
    assert listening.wait(20) == 0
    return time.monotonic() - started_s


def lossy(command: Command) -> Result:
    """Prove eight rails again and again under loss and delay on both ways, without knowing a neighbour."""
    nodes = lay_segments(2, RAILS)
    rails = {node: [port.verbs_rail() for port in ports] for node, ports in enumerate(nodes)}
    asked = int(ASKED.read_text()) if ASKED.exists() else 0
    conditions = itertools.islice(itertools.cycle(ALL), -(-asked // RAILS)) if asked else SOME
    rounds = []
    for loss, delay_ms in conditions:
        condition([port for ports in nodes for port in ports], f"delay {delay_ms}ms loss {loss}%")
        run("ip", "neigh", "flush", "all", check=False)
        before = _sent_again(nodes[0][0])
        proven = prove(rails)
        rounds.append(
            {
                "loss": loss,
                "delay_ms": delay_ms,
                "outcomes": [one[:2] for one in proven["outcomes"].values()],
                "problems": proven["problems"],
                "seconds": proven["seconds"],
                "sent again": _sent_again(nodes[0][0]) - before,
            }
        )
    return {"rounds": rounds}


def _sent_again(port: Port) -> int:
    folder = Path("/sys/class/infiniband") / port.device / "ports" / "1" / "hw_counters"
    return sum(
        int((folder / name).read_text()) for name in ("duplicate_request", "rcvd_seq_err", "out_of_seq_request")
    )
