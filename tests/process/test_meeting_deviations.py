"""One node of a group deviates in one thing: every pod says so with its index and name, at once; and large groups."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import sglang_roce_entry
from tests.process.command import START_S, python_path
from tests.process.group import OPTIONS, lws, nodes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.process.nodes import Cluster, Launch

pytestmark = pytest.mark.netns

MODEL = ("--model-path", "/models/none")
#: From the last arrival to the line in every pod's log; and for each interpreter that shares two cores at that moment.
VERDICT_S, STARTING_S = 2.0, 0.5
MEETS_S = 60.0
DEVIANT = 2
NAMED = "2 (sglang-0-2)"


class Deviation(NamedTuple):
    """What the deviant is given, and the code and exit code that its group gets; ``modules``: by file, their source."""

    code: str
    exit_code: int
    options: Sequence[str] = ()
    sglang: Sequence[str] = ()
    variables: Mapping[str, str] = {}
    distributions: Mapping[str, str] = {}
    modules: Mapping[str, str] = {}


#: Installed on every node, so that one can have another release.
RELEASES = {
    "nvidia-nccl-cu12": "2.28.9",
    "torch": "2.9.1",
    "mooncake-transfer-engine": "0.3.7",
    "nvidia-nvshmem-cu12": "3.4.5",
}
PACKAGE = Path(sglang_roce_entry.__file__)
#: The launcher of another release: another version, the same modules.
OTHER_LAUNCHER = f"""{PACKAGE.read_text(encoding="utf-8")}
__version__ = "0.0.9"
__path__ = [{str(PACKAGE.parent)!r}]
"""
AHEAD = """
import time
true = time.time
time.time = lambda: true() + 30
"""
#: By the key of the comparison; arguments and variables in words.
DEVIATIONS = {
    "sglang": Deviation("SGLANG_DIFFERS", 78, distributions={"sglang": "0.5.22"}),
    "nccl": Deviation("VERSION_DIFFERS", 0, distributions={"nvidia-nccl-cu12": "2.27.5"}),
    "torch": Deviation("VERSION_DIFFERS", 0, distributions={"torch": "2.8.0"}),
    "mooncake": Deviation("VERSION_DIFFERS", 0, distributions={"mooncake-transfer-engine": "0.3.6"}),
    "nvshmem": Deviation("VERSION_DIFFERS", 0, distributions={"nvidia-nvshmem-cu12": "3.3.20"}),
    "model": Deviation("ARGUMENT_DIFFERS", 78, sglang=("--model-path", "/models/other")),
    "dtype": Deviation("ARGUMENT_DIFFERS", 78, sglang=("--dtype", "half")),
    "chunked prefill": Deviation("ARGUMENT_DIFFERS", 78, sglang=("--chunked-prefill-size", "4096")),
    "gpus": Deviation("GPUS_DIFFER", 78, options=("--gpus", "4")),
    "an argument in no table": Deviation("ARGUMENT_DIFFERS", 0, sglang=("--nsa-prefill-backend-of-later", "2")),
    "launcher": Deviation("VERSION_DIFFERS", 0, modules={"sglang_roce_entry/__init__.py": OTHER_LAUNCHER}),
    "clock": Deviation("CLOCK_DIFFERS", 0, modules={"sitecustomize.py": AHEAD}),
    "a variable of Mooncake": Deviation("VARIABLE_DIFFERS", 0, variables={"MC_SLICE_SIZE": "65536"}),
    "a variable of NVSHMEM": Deviation("VARIABLE_DIFFERS", 0, variables={"NVSHMEM_SYMMETRIC_SIZE": "2G"}),
    "a variable of NCCL": Deviation("VARIABLE_DIFFERS", 0, variables={"NCCL_ALGO": "Ring"}),
    "a variable of SGLang": Deviation("VARIABLE_DIFFERS", 0, variables={"SGLANG_USE_MODELSCOPE": "1"}),
    "a variable under strict": Deviation("VARIABLE_DIFFERS", 78, variables={"UCX_TLS": "tcp"}),
    "size": Deviation("GROUP_SIZE_DIFFERS", 78, variables={"LWS_GROUP_SIZE": "4"}),
}


def installed(
    folder: Path, standin: Path, changed: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> str:
    """Return a PYTHONPATH with the stand-in and metadata of all releases, some of them changed, and ``modules``."""
    packages = folder / "packages"
    for name, source in (modules or {}).items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(source, encoding="utf-8")
    for name, version in {**RELEASES, **changed}.items():
        made = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        made.mkdir(parents=True)
        (made / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
        )
    return python_path(packages, standin)


def everywhere(launches: Sequence[Launch], code: str, named: str, exit_code: int) -> None:
    """Fail unless every log has the code with who deviates soon after the last arrival, and the exit code is right."""
    arrived_s = max(
        launch.wait_for_line("calling the leader|the group of .* meets on", MEETS_S).at_s for launch in launches
    )
    for launch in launches:
        line = launch.wait_for_line(rf"\[{code}\]", MEETS_S)
        assert named in line.text, launch.account()
        in_time = line.at_s - arrived_s < VERDICT_S + STARTING_S * len(launches)
        assert in_time, "".join(one.account() for one in launches)
    for launch in launches:
        assert launch.wait_exit(START_S) == exit_code, launch.account()
        if exit_code:
            launch.assert_not_started()


@pytest.mark.parametrize("deviation", DEVIATIONS.values(), ids=DEVIATIONS.keys())
def test_who_deviates_is_named_on_every_pod(
    cluster: Cluster, standin: Path, tmp_path: Path, deviation: Deviation
) -> None:
    """A warning lets the group go on; under `strict` it is an error."""
    nodes = nodes_of(cluster, 3)
    same = installed(tmp_path / "same", standin, {})
    other = installed(tmp_path / "other", standin, deviation.distributions, deviation.modules)
    strict = ("--strict",) if deviation.exit_code and deviation.code == "VARIABLE_DIFFERS" else ()
    launches = []
    for index, node in enumerate(nodes):
        deviates = index == DEVIANT
        options = (*OPTIONS, *strict, "--wait-deadline", "60", *(deviation.options if deviates else ()))
        sglang = (*MODEL, *(deviation.sglang if deviates else ()))
        variables = {**lws(index, 3), "PYTHONPATH": other if deviates else same}
        launches.append(
            node.start([*options, *sglang], {**variables, **(deviation.variables if deviates else {})})
        )
    everywhere(launches, deviation.code, NAMED, deviation.exit_code)


MAY_DIFFER: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "HTTP port": (("--port", "30001"), {}),
    "log level": (("--log-level", "debug"), {}),
    "the KV transfer's HCAs": (("--disaggregation-ib-device", "mlx5_7"), {}),
    "spelled otherwise": (("--tp-size=24",), {}),
    "NCCL's log": ((), {"NCCL_DEBUG": "INFO"}),
    "names of interfaces": ((), {"UCX_NET_DEVICES": "eth0", "NCCL_IB_HCA": "mlx5_3"}),
}


@pytest.mark.parametrize(("sglang", "variables"), MAY_DIFFER.values(), ids=MAY_DIFFER.keys())
def test_what_may_differ_is_no_problem(
    cluster: Cluster, sglang: Sequence[str], variables: Mapping[str, str]
) -> None:
    nodes = nodes_of(cluster, 3)
    common = ("--tp-size", "24") if any("tp" in word for word in sglang) else ()
    launches = []
    for index, node in enumerate(nodes):
        deviates = index == DEVIANT
        own = sglang if deviates and sglang else common
        launches.append(
            node.start(
                [*OPTIONS, "--wait-deadline", "60", *MODEL, *own],
                {**lws(index, 3), **(variables if deviates else {})},
            )
        )
    for launch in launches:
        assert launch.wait_exit(MEETS_S) == 0, launch.account()
        assert "DIFFER" not in launch.text()


def test_an_index_twice_is_everybodys_end(cluster: Cluster) -> None:
    nodes = nodes_of(cluster, 3)
    words = [*OPTIONS, "--wait-deadline", "60", *MODEL]
    launches = [node.start(words, lws(min(index, 1), 3)) for index, node in enumerate(nodes)]
    for launch in launches:
        assert launch.wait_exit(MEETS_S) == 78, launch.account()
        line = launch.wait_for_line(r"\[INDEX_TWICE\]", 1).text
        assert nodes[1].address in line
        assert nodes[2].address in line


def test_two_in_one_network_are_everybodys_end(cluster: Cluster) -> None:
    """Two pods of one node on its network: who they are, and not the third, which is on this machine as well."""
    nodes = nodes_of(cluster, 2)
    launches = [
        nodes[min(index, 1)].start(
            [*OPTIONS, "--wait-deadline", "60", *MODEL],
            {**lws(index, 3), "POD_NAME": f"sglang-0-{index}" if index else "sglang-0"},
        )
        for index in range(3)
    ]
    everywhere(
        launches,
        "MACHINE_SHARED",
        "error: 1 (sglang-0-1), 2 (sglang-0-2) are on one machine and share its network",
        78,
    )


def test_one_of_sixty_four(cluster: Cluster) -> None:
    """A row for each kind of node, not for each node, and the same sentence on all."""
    size, odd = 64, 37
    nodes = nodes_of(cluster, size)
    launches = []
    for index, node in enumerate(nodes):
        words = [*OPTIONS, "--wait-deadline", "300", *MODEL, *(("--dtype", "half") if index == odd else ())]
        launches.append(node.start(words, lws(index, size)))
    for launch in launches:
        assert launch.wait_exit(300) == 78, launch.account()
    arrived_s = max(
        launch.wait_for_line("calling the leader|the group of .* meets on", 1).at_s for launch in launches
    )
    for launch in launches:
        line = launch.wait_for_line(r"\[ARGUMENT_DIFFERS\]", 1)
        assert f"half on {odd} (sglang-0-{odd})" in line.text
        # Sixty-four interpreters on two cores: what is left of their own starts comes on top.
        assert line.at_s - arrived_s < VERDICT_S + START_S, launch.account()
    assert "64 of 64 nodes" in launches[0].text()
    assert len(launches[0].lines) < 25, launches[0].account()
    assert sys.getsizeof(launches[0].text()) < 8000
