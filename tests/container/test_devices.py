"""RDMA devices and locked memory as a container sees them: each way to lack them, told apart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.container.pods import (
    NULL_DEVICE,
    SGLANG_ARGUMENTS,
    VERBS_DEVICE,
    Pod,
    events,
    make_node,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.container.enclosure import Enclosure

pytestmark = pytest.mark.container

DRY_RUN = ("--dry-run=json", *SGLANG_ARGUMENTS)
#: 64 KiB: what container runtimes give without a configuration.
SMALL_MEMLOCK = "memlock=65536:65536"


def _none(_: Enclosure, folder: Path) -> tuple[str, ...]:
    return ()


def _empty_folder(_: Enclosure, folder: Path) -> tuple[str, ...]:
    return ("--mount=type=tmpfs,dst=/dev/infiniband",)


def _mode(_: Enclosure, folder: Path) -> tuple[str, ...]:
    make_node(folder / "dev/uverbs0", NULL_DEVICE, mode=0o600)
    return (f"--volume={folder}/dev:/dev/infiniband", "--user=1000:1000")


def _cgroup(enclosure: Enclosure, folder: Path) -> tuple[str, ...]:
    # As a hostPath volume without a device plugin: the node is there, the device group forbids it.
    make_node(folder / "dev/uverbs0", VERBS_DEVICE)
    return (f"--volume={folder}/dev:/dev/infiniband", *enclosure.with_cgroups)


def _driver(_: Enclosure, folder: Path) -> tuple[str, ...]:
    make_node(folder / "dev/uverbs0", VERBS_DEVICE)
    return (f"--volume={folder}/dev:/dev/infiniband",)


def _plain_file(_: Enclosure, folder: Path) -> tuple[str, ...]:
    (folder / "dev").mkdir()
    (folder / "dev/uverbs0").touch(0o666)
    return (f"--volume={folder}/dev:/dev/infiniband",)


#: How the verbs device is (not) there, its numbers in sysfs, the reason, a word of the explanation.
CASES = {
    "missing": (_none, VERBS_DEVICE, "NO_VERBS", "/dev/infiniband"),
    "empty folder": (_empty_folder, VERBS_DEVICE, "NO_VERBS", "uverbs0"),
    "forbidden by mode": (_mode, NULL_DEVICE, "VERBS_DENIED", "EACCES"),
    "forbidden by device cgroup": (_cgroup, VERBS_DEVICE, "VERBS_DENIED", "EPERM"),
    "without driver": (_driver, VERBS_DEVICE, "NO_VERBS", "ENXIO"),
    "a plain file": (_plain_file, VERBS_DEVICE, "NO_VERBS", "not a device node"),
}


def _plan(enclosure: Enclosure, image: str, *options: str) -> dict[str, Any]:
    done = enclosure.run_container(image, DRY_RUN, *options)
    plan: dict[str, Any] = json.loads(done.out)
    assert done.code == plan["exit_code"], done.log
    return plan


def _port(plan: dict[str, Any], device: str) -> dict[str, Any]:
    port: dict[str, Any] = next(port for port in plan["ports"] if port["device"] == device)
    return port


@pytest.mark.parametrize("case", CASES)
def test_a_verbs_device_that_does_not_open_is_explained(
    networks: Enclosure, image: str, tmp_path: Path, case: str
) -> None:
    devices, numbers, reason, word = CASES[case]
    pod = Pod(tmp_path, index=1, size=2)
    tree = f"--volume={pod.write_sys(numbers)}:/sys:ro"
    options = (*pod.network(), *pod.group(), tree, "--cap-add=IPC_LOCK")
    options = (*options, *devices(networks, tmp_path))
    plan = _plan(networks, image, *options)
    port = _port(plan, "mlx5_0")
    assert (port["used"], port["reason"]) == (False, reason)
    assert word in port["detail"]
    assert plan["exit_code"] == 69
    # The launch says the same and does not go on.
    launch = networks.run_container(image, SGLANG_ARGUMENTS, *options, "--env=SGLANG_ROCE_HCA_WAIT=0")
    assert launch.code == 69
    assert launch.out == ""
    assert port["detail"] in launch.log


def test_a_device_that_opens_is_used(networks: Enclosure, image: str, tmp_path: Path) -> None:
    plan = _plan(networks, image, *Pod(tmp_path, index=1, size=2).options())
    assert plan["exit_code"] == 0, plan["problems"]
    port = _port(plan, "mlx5_0")
    assert (port["used"], port["reason"]) == (True, None)
    assert (port["gid_index"], port["gid"], port["netdev"]) == (3, "10.89.77.101", "net1")
    assert _port(plan, "mlx5_1")["reason"] == "NO_OWN_GID"


def test_no_rdma_at_all(networks: Enclosure, image: str, tmp_path: Path) -> None:
    pod = Pod(tmp_path, index=1, size=2)
    plan = _plan(networks, image, *pod.network(), *pod.group())
    assert plan["ports"] == []
    assert plan["exit_code"] == 69


def _limits(enclosure: Enclosure, memlock: str) -> tuple[str, ...]:
    # A --ulimit replaces the whole default list.
    return tuple(f"--ulimit={limit}" for limit in (*enclosure.ulimits, memlock))


def _without_ipc_lock(options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(option for option in options if option != "--cap-add=IPC_LOCK")


def _errors(plan: dict[str, Any]) -> str:
    problems = (problem for problem in plan["problems"] if problem["severity"] == "error")
    return " ".join(f"{problem['code']} {problem['message']}" for problem in problems)


def test_a_small_memlock_without_ipc_lock_is_fatal(networks: Enclosure, image: str, tmp_path: Path) -> None:
    options = _without_ipc_lock(Pod(tmp_path, index=1, size=2).options())
    plan = _plan(networks, image, *options, *_limits(networks, SMALL_MEMLOCK))
    assert plan["exit_code"] == 69
    assert "memlock" in _errors(plan).lower()
    assert _port(plan, "mlx5_0")["used"]  # nothing else is wrong


@pytest.mark.parametrize("user", [(), ("--user=1000:1000",)], ids=["root", "uid 1000"])
def test_a_small_memlock_does_not_matter_with_ipc_lock(
    networks: Enclosure, image: str, tmp_path: Path, user: tuple[str, ...]
) -> None:
    # podman makes an added capability ambient, so that it reaches a user other than root.
    options = (*Pod(tmp_path, index=1, size=2).options(), *user)
    plan = _plan(networks, image, *options, *_limits(networks, SMALL_MEMLOCK))
    assert plan["exit_code"] == 0, plan["problems"]


def test_the_soft_memlock_is_raised_for_sglang(networks: Enclosure, image: str, tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    options = (*pod.network(), *pod.hardware(), "--env=STAND_IN_MODE=exit")
    done = networks.run_container(
        image,
        ["--rdma=required", *SGLANG_ARGUMENTS],
        *options,
        *_limits(networks, "memlock=65536:1048576"),
    )
    assert done.code == 0, done.log
    assert events(done.out)["started"]["memlock"] == [1048576, 1048576]


def test_ipc_lock_that_does_not_reach_a_user_is_not_counted(
    networks: Enclosure, image: str, tmp_path: Path, bundle: Callable[[Pod, Path], dict[str, Any]]
) -> None:
    """Kubernetes adds IPC_LOCK to the bounding and permitted sets, not to the ambient one.

    A user other than root then has no effective capability after exec (capabilities(7)).
    """
    plan = bundle(Pod(tmp_path / "pod", index=1, size=2), tmp_path / "bundle")
    assert _port(plan, "mlx5_0")["used"]
    assert plan["exit_code"] == 69
    assert "memlock" in _errors(plan).lower()


@pytest.fixture
def bundle(networks: Enclosure, image: str) -> Callable[[Pod, Path], dict[str, Any]]:
    """Return a function that dry-runs the entrypoint as uid 1000 from an OCI bundle of its own."""

    def run(pod: Pod, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        # Only its network namespace is used.
        options = (*pod.network(), "--entrypoint=sleep")
        holder = networks.start(image, ["60"], *options)
        try:
            pid = networks.succeed("podman", "inspect", "--format={{.State.Pid}}", holder.identifier)
            root = networks.succeed("podman", "image", "mount", image)
            networks.succeed("crun", "spec", f"--bundle={folder}")
            config = folder / "config.json"
            specification = json.loads(config.read_text())
            _edit(specification, pod, root, f"/proc/{pid}/ns/net")
            config.write_text(json.dumps(specification))
            done = networks.run(
                "crun", "--cgroup-manager=disabled", "run", f"--bundle={folder}", "without-ambient"
            )
        finally:
            networks.run("podman", "image", "unmount", image)
            holder.remove()
        plan: dict[str, Any] = json.loads(done.out)
        assert done.code == plan["exit_code"], done.log
        return plan

    return run


def _edit(specification: dict[str, Any], pod: Pod, root: str, network: str) -> None:
    """Turn crun's template into a pod as containerd writes it for runAsUser: 1000."""
    process = specification["process"]
    process["args"] = ["sglang-roce-entry", *DRY_RUN]
    process["terminal"] = False
    process["user"] = {"uid": 1000, "gid": 1000}
    process["cwd"] = "/"
    process["env"] = ["PATH=/usr/local/bin:/usr/bin:/bin"]
    process["env"] += [f"{name}={value}" for name, value in pod.environment().items()]
    process["rlimits"] = [{"type": "RLIMIT_MEMLOCK", "hard": 65536, "soft": 65536}]
    allowed = ["CAP_IPC_LOCK"]
    process["capabilities"] = {"bounding": allowed, "permitted": allowed, "effective": allowed}
    specification["root"] = {"path": root, "readonly": True}
    pod.hardware()
    skipped = ("/sys", "/sys/fs/cgroup")
    mounts = [mount for mount in specification["mounts"] if mount["destination"] not in skipped]
    bind = {"type": "bind", "options": ["rbind", "ro"]}
    mounts.append({"destination": "/sys", "source": f"{pod.folder}/node/sys", **bind})
    devices = {"type": "bind", "options": ["rbind", "rw"], "source": f"{pod.folder}/infiniband"}
    mounts.append({"destination": "/dev/infiniband", **devices})
    specification["mounts"] = mounts
    linux = specification["linux"]
    linux.pop("resources", None)
    linux["namespaces"] = [
        {"type": "pid"},
        {"type": "mount"},
        {"type": "ipc"},
        {"type": "uts"},
        {"type": "network", "path": network},
    ]
