"""What is done in the guest, scenario by scenario. Each returns plain data; the tests on the host judge it.

    python -m tests.kernel.scenarios COMMAND NAME...

runs the named scenarios one after the other on cleaned ground and leaves /out/NAME.json for each: its result, or
the traceback that ended it, and the seconds it took.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kernel.beside_nccl import beside_nccl
from tests.kernel.eight_rails import eight_rails, lossy
from tests.kernel.fabrics import nccl_transfer, routed_fabric
from tests.kernel.gid_tables import address_added_again, address_churn, bond, port_down, unchanged_soft_roce, vlan
from tests.kernel.launches import healthy, late_address, late_hca, never
from tests.kernel.node import OUT, Command, clean, write_standin_sglang
from tests.kernel.pods import exclusive_pods, shared_pod
from tests.kernel.proofs import exchanges, loopback
from tests.kernel.rails import rails, rehearsals
from tests.kernel.releases import releases
from tests.kernel.tools import tools
from tests.kernel.traffic import in_use, in_use_by_nccl, in_use_by_threads

if TYPE_CHECKING:
    from collections.abc import Callable

SCENARIO_DEADLINE_S = 240

Result = dict[str, Any]

SCENARIOS: dict[str, Callable[[Command], Result]] = {
    scenario.__name__: scenario
    for scenario in (
        routed_fabric,
        nccl_transfer,
        port_down,
        vlan,
        bond,
        address_added_again,
        unchanged_soft_roce,
        shared_pod,
        late_address,
        late_hca,
        healthy,
        never,
        address_churn,
        exclusive_pods,
        tools,
        loopback,
        exchanges,
        in_use,
        in_use_by_nccl,
        in_use_by_threads,
        rails,
        rehearsals,
        beside_nccl,
        eight_rails,
        lossy,
        releases,
    )
}


def _out_of_time(*_: object) -> None:
    raise TimeoutError(f"the scenario did not end within {SCENARIO_DEADLINE_S} s")


def main(command: Command, names: list[str]) -> None:
    signal.signal(signal.SIGALRM, _out_of_time)
    write_standin_sglang()
    for name in names:
        started = time.monotonic()
        outcome: Result = {}
        try:
            signal.alarm(SCENARIO_DEADLINE_S)
            clean()
            outcome["result"] = SCENARIOS[name](command)
        except Exception:  # noqa: BLE001 - the host's test shows it
            outcome["error"] = traceback.format_exc()
        finally:
            signal.alarm(0)
        outcome["wall_s"] = time.monotonic() - started
        (OUT / f"{name}.json").write_text(json.dumps(outcome, indent=1))
        print(f"{name}: {outcome['wall_s']:.1f} s", flush=True)


if __name__ == "__main__":
    main(Command(Path(sys.argv[1])), sys.argv[2:])
