"""One boot for the session; a fixture for each scenario that some collected test asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from tests.kernel.archive import KernelUnavailableError, userland
from tests.kernel.eight_rails import ASKED
from tests.kernel.guest import Run, boot, missing_part, real_interpreter
from tests.kernel.image import BootableKernel, bootable_kernel
from tests.kernel.releases import USERLANDS
from tests.kernel.scenarios import SCENARIOS
from tests.layers import is_required, skip_or_fail
from tests.nccl.wheels import NEWEST, WheelUnavailableError, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXCHANGES = "SGLANG_ROCE_TEST_EXCHANGES"
Fetched = TypeVar("Fetched")
CHECKOUT = Path(__file__).resolve().parents[2]
# The first whose GID scan survives an unreadable type, and today's. Before 2.24 two devices without
# a PCI path crash NCCL, and soft-RoCE has none.
NCCL_RELEASES = ("2.26.2", NEWEST)
# Debian's newest kernel that has left unstable, and the releases whose rdma-core is tried on it.
NEWEST_KERNEL = "trixie-backports"
DEBIAN_RELEASES = ("trixie", "forky")
ON_THE_NEWEST = "releases"
# All scenarios together take some eleven minutes of the guest's own time, which does not pass faster
# where others are busy; the machine's does.
LIFETIME_S = 1200.0
BOOT_DEADLINE_S = 2400.0


class Guest:
    """What the scenarios of the one boot left, and why some could not be run."""

    def __init__(self, out: Path, run: Run, missing: dict[str, str]) -> None:
        self._out = out
        self._run = run
        self._missing = missing

    def result(self, name: str) -> dict[str, Any]:
        """Return a scenario's data; fail with what the guest said if it has none."""
        if name in self._missing:
            skip_or_fail("kernel", self._missing[name])
        path = self._out / f"{name}.json"
        if not path.exists():
            pytest.fail(
                f"the guest ended (job status {self._run.status}, {self._run.wall_s:.0f} s) before the"
                f" scenario {name}\n{self._run.log[-3000:]}\n{self._run.console[-2000:]}"
            )
        outcome: dict[str, Any] = json.loads(path.read_text())
        if "error" in outcome:
            pytest.fail(f"the scenario {name} failed in the guest\n{outcome['error']}")
        result: dict[str, Any] = outcome["result"]
        return result


@pytest.fixture(scope="session")
def installed_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the console script under test: SGLANG_ROCE_ENTRY, or of an environment with this checkout installed."""
    given = os.environ.get("SGLANG_ROCE_ENTRY")
    if given:
        return Path(given).absolute()
    environment = tmp_path_factory.mktemp("installed") / "venv"
    for step in ((real_interpreter(), "-m", "venv", environment), _pip_install(environment)):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-500:]
            skip_or_fail("kernel", f"needs the command installed in an environment of its own: {said}")
    return environment / "bin" / "sglang-roce-entry"


def _pip_install(environment: Path) -> tuple[str | Path, ...]:
    return (environment / "bin" / "python", "-m", "pip", "install", "--quiet", CHECKOUT)


@pytest.fixture(scope="session")
def kernel() -> BootableKernel:
    """Fetch and prepare the kernel, or take what an earlier run left."""
    return _fetched(lambda download: bootable_kernel(download=download))


def _fetched(fetched: Callable[[bool], Fetched]) -> Fetched:
    missing = missing_part()
    if missing:
        skip_or_fail("kernel", missing)
    try:
        # Nobody expects a plain pytest to download some hundred megabytes.
        return fetched(is_required("kernel"))
    except KernelUnavailableError as error:
        skip_or_fail("kernel", f"{error}{_how()}")


def _how() -> str:
    return "" if is_required("kernel") else "; SGLANG_ROCE_TESTS_REQUIRE=kernel downloads it"


@pytest.fixture(scope="session")
def guest(
    kernel: BootableKernel,
    installed_command: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Guest:
    """Boot once and run the scenarios whose fixtures the collected tests name."""
    command = installed_command
    asked_for = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    out = tmp_path_factory.mktemp("guest")
    missing_parts: dict[str, str] = {}
    with_nccl = asked_for & {"nccl_transfer", "in_use_by_nccl", "beside_nccl"}
    if with_nccl and shutil.which("nm") is None:
        missing_parts |= dict.fromkeys(with_nccl, "needs the package binutils")
    elif with_nccl:
        try:
            fetched = [fetch(release, download=is_required("kernel")) for release in NCCL_RELEASES]
            releases = [{**asdict(one), "plugin_abi": one.plugin_abi} for one in fetched]
            (out / "nccl-releases.json").write_text(json.dumps(releases, default=str))
        except WheelUnavailableError as error:
            needed = f"needs a wheel of nvidia-nccl-cu12: {error}{_how()}"
            missing_parts |= dict.fromkeys(with_nccl, needed)
    if os.environ.get(EXCHANGES):
        (out / ASKED.name).write_text(os.environ[EXCHANGES])
    names = [name for name in SCENARIOS if name in asked_for - {ON_THE_NEWEST} and name not in missing_parts]
    return Guest(out, _run(kernel, command, names, out), missing_parts)


@pytest.fixture(scope="session")
def newest_guest(installed_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """Boot the newest kernel, with the user space of other releases."""
    roots = [_fetched(lambda download, name=name: userland(name, download=download)) for name in DEBIAN_RELEASES]  # type: ignore[misc]
    kernel = _fetched(lambda download: bootable_kernel(download=download, suite=NEWEST_KERNEL))
    out = tmp_path_factory.mktemp("newest-guest")
    (out / USERLANDS.name).write_text(json.dumps({version: str(root) for version, root in roots}))
    return Guest(out, _run(kernel, installed_command, [ON_THE_NEWEST], out), {})


def _run(kernel: BootableKernel, command: Path, names: Sequence[str], out: Path) -> Run:
    job = [str(command.parent / "python"), "-m", "tests.kernel.scenarios", str(command), *names]
    run = boot(kernel, job, directory=CHECKOUT, out=out, deadline_s=BOOT_DEADLINE_S, lifetime_s=LIFETIME_S)
    print(f"guest with {kernel.package}: {run.wall_s:.0f} s\n{run.log}")
    return run


def _fixture_of(name: str) -> Callable[..., dict[str, Any]]:
    @pytest.fixture(scope="session", name=name)
    def result(request: pytest.FixtureRequest) -> dict[str, Any]:
        guest: Guest = request.getfixturevalue("newest_guest" if name == ON_THE_NEWEST else "guest")
        return guest.result(name)

    return result


for _name in SCENARIOS:
    globals()[f"_{_name}"] = _fixture_of(_name)
