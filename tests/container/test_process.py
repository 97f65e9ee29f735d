"""What the entrypoint is as a process: PID 1, signals, exit codes, users, the bare-word form."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.container.pods import LEADER_ADDRESS, SGLANG_ARGUMENTS, Pod, events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.container.enclosure import Container, Enclosure

pytestmark = pytest.mark.container

#: A user that OpenShift might choose: no passwd entry, root's group.
STRANGER = ("--user=1000770000:0", "--cap-drop=ALL", "--security-opt=no-new-privileges")
READ_ONLY = ("--read-only", "--read-only-tmpfs=false")
EXIT = "--env=STAND_IN_MODE=exit"
NO_LEADER = (f"--env=LWS_LEADER_ADDRESS=absent.{LEADER_ADDRESS}",)
#: Of a command that is given this long before SIGKILL, "at once" is far less, on a busy machine too.
GRACE_S = 60
AT_ONCE_S = 20.0


@pytest.fixture(params=["worker", "leader", "worker below another PID 1"])
def waiting(
    networks: Enclosure, image: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Container]:
    """Return a worker whose leader never comes, and a leader whose own name is not published."""
    index = 0 if request.param == "leader" else 7
    options = (*Pod(tmp_path, index, size=8).options(), *NO_LEADER)
    if request.param == "worker below another PID 1":
        options = (*options, "--pid=host", *networks.with_cgroups)
    container = networks.start(image, SGLANG_ARGUMENTS, *options)
    container.wait_for("resolv")
    yield container
    container.remove()


def test_sigterm_ends_the_wait_at_once(waiting: Container) -> None:
    assert waiting.stop(GRACE_S) < AT_ONCE_S
    assert waiting.exit_code() == 143
    assert events(waiting.log()) == {}


def test_sigint_ends_the_wait_at_once(waiting: Container) -> None:
    begun = time.monotonic()
    waiting.signal("SIGINT")
    assert waiting.exit_code() == 130
    assert time.monotonic() - begun < AT_ONCE_S


def test_a_leader_that_does_not_come_is_a_timeout(networks: Enclosure, image: str, tmp_path: Path) -> None:
    options = (*Pod(tmp_path, index=7, size=8).options(), *NO_LEADER)
    begun = time.monotonic()
    done = networks.run_container(image, ["--wait-deadline=3", *SGLANG_ARGUMENTS], *options)
    assert done.code == 124
    assert done.out == ""
    assert 3.0 <= time.monotonic() - begun < AT_ONCE_S


@pytest.mark.parametrize("code", [0, 3, 75, 255])
def test_the_exit_code_of_sglang_is_the_containers(enclosure: Enclosure, image: str, code: int) -> None:
    options = (EXIT, f"--env=STAND_IN_EXIT_CODE={code}")
    done = enclosure.run_container(image, SGLANG_ARGUMENTS, *options)
    assert done.code == code, done.log
    assert events(done.out)["started"]["pid"] == 1


def test_a_death_by_signal_looks_as_without_the_launcher(enclosure: Enclosure, image: str) -> None:
    aborts = "--env=STAND_IN_MODE=abort"
    done = enclosure.run_container(image, SGLANG_ARGUMENTS, aborts)
    module = ("-m", "sglang.launch_server", *SGLANG_ARGUMENTS)
    alone = enclosure.run_container(image, module, aborts, "--entrypoint=python3")
    assert alone.code > 128
    assert done.code == alone.code


def test_one_node_gets_no_group_arguments(enclosure: Enclosure, image: str) -> None:
    done = enclosure.run_container(image, SGLANG_ARGUMENTS, EXIT)
    assert done.code == 0, done.log
    assert events(done.out)["started"]["argv"] == ["--host", "0.0.0.0", *SGLANG_ARGUMENTS]


def test_no_arguments_are_a_usage_error(enclosure: Enclosure, image: str) -> None:
    done = enclosure.run_container(image, [])
    assert done.code == 2
    assert done.out == ""
    assert "sglang-roce-entry:" in done.log


def test_a_bare_word_is_executed_in_the_prepared_environment(
    networks: Enclosure, image: str, tmp_path: Path
) -> None:
    pod = Pod(tmp_path, index=6, size=8)
    script = 'echo "$$ $NCCL_IB_HCA $NCCL_IB_GID_INDEX"; exit 42'
    done = networks.run_container(image, ["bash", "-c", script], *pod.options())
    assert (done.code, done.out) == (42, "1 =mlx5_0:1 3\n"), done.log


def test_a_bare_word_is_executed_where_a_launch_would_be_refused(
    networks: Enclosure, image: str, tmp_path: Path
) -> None:
    pod = Pod(tmp_path, index=6, size=8)
    options = (*pod.network(), *pod.group())  # a group, and no RDMA device at all
    done = networks.run_container(image, ["bash", "-c", "echo inside; exit 42"], *options)
    assert (done.code, done.out) == (42, "inside\n"), done.log
    assert "sglang-roce-entry:" in done.log  # it was warned about


def test_a_bare_word_inherits_default_signals(enclosure: Enclosure, image: str) -> None:
    words = ("grep", "^Sig[BI]", "/proc/self/status")
    done = enclosure.run_container(image, words)
    direct = enclosure.run_container(image, words[1:], "--entrypoint=grep")
    assert done.code == direct.code == 0, done.log
    assert done.out == direct.out
    assert done.out.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


@pytest.mark.parametrize(("word", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_bare_word_that_cannot_be_executed(enclosure: Enclosure, image: str, word: str, code: int) -> None:
    done = enclosure.run_container(image, [word])
    assert done.code == code
    assert word in done.log


def test_an_arbitrary_user_on_a_read_only_root(enclosure: Enclosure, image: str) -> None:
    done = enclosure.run_container(image, SGLANG_ARGUMENTS, *STRANGER, *READ_ONLY, EXIT)
    assert done.code == 0, done.log
    started = events(done.out)["started"]
    assert (started["pid"], started["uid"]) == (1, 1000770000)


def test_an_arbitrary_user_sees_the_plan_of_a_group(networks: Enclosure, image: str, tmp_path: Path) -> None:
    pod = Pod(tmp_path, index=5, size=8)
    arguments = ("--print-env", *SGLANG_ARGUMENTS)
    options = (*pod.options(), "--cap-drop=ALL", *STRANGER[:1], *READ_ONLY)
    done = networks.run_container(image, arguments, *options)
    assert "NCCL_IB_HCA" in done.out, done.log
    assert "=mlx5_0:1" in done.out


@pytest.mark.parametrize("user", [(), STRANGER])
def test_a_fatal_error_is_the_first_line_of_the_termination_message(
    networks: Enclosure, image: str, tmp_path: Path, user: tuple[str, ...]
) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    message.chmod(0o666)  # as the kubelet makes it
    pod = Pod(tmp_path, index=4, size=8)
    options = (*pod.network(), *pod.group(), *user, *READ_ONLY, "--env=SGLANG_ROCE_HCA_WAIT=0")
    done = networks.run_container(image, SGLANG_ARGUMENTS, *options, f"--volume={message}:/dev/termination-log")
    assert done.code == 69, done.log
    first = message.read_text().splitlines()[0]
    sentence, _, code = first.partition(" [")
    assert "RDMA" in sentence
    assert "NO_USABLE_HCA" in code
    assert sentence in done.log


def test_the_pause_before_a_fatal_exit_ends_with_sigterm(networks: Enclosure, image: str, tmp_path: Path) -> None:
    pod = Pod(tmp_path, index=3, size=8)
    # Longer than the 15 s in Kubernetes, so that no busy machine sees its end.
    linger = ("--env=SGLANG_ROCE_LINGER=300", "--env=SGLANG_ROCE_HCA_WAIT=0")
    options = (*pod.network(), *pod.group(), *linger)
    container = networks.start(image, SGLANG_ARGUMENTS, *options)
    container.wait_for("RDMA")
    time.sleep(1.0)
    running = networks.succeed("podman", "inspect", "--format={{.State.Running}}", container.identifier)
    took_s = container.stop(GRACE_S)
    code = container.exit_code()
    container.remove()
    assert running == "true"  # LWS would delete the pod and its log at once
    assert took_s < AT_ONCE_S
    assert code in {69, 143}
