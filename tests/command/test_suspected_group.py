"""One node beside the variables of another controller: said in a launch, fatal if strict, silent in the checks."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.healthy import healthy
from tests.planning import codes, plan_of
from tests.trees import Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command.conftest import Run

MODEL = ("--model-path", "/m")
TRAINER = {"PET_NNODES": "2", "PET_MASTER_ADDR": "sg-node-0-0.sg", "PET_NODE_RANK": "1"}
UNSET = {"SGLANG_ROCE_WORKER_INDEX": ""}
JOB = {"JOB_COMPLETION_INDEX": "1"}


def node() -> Node:
    one = Node().interface("eth0", "10.0.0.11/24")
    return one.set(
        gpus=8, versions={"sglang": "0.5.10", "nccl": "2.28.3"}, resolve={"sg-node-0-0.sg": ["10.0.0.10"]}
    )


@pytest.mark.parametrize("environ", [TRAINER, JOB], ids=["trainer", "job"])
def test_a_launch_as_one_node_is_a_warning(run: Run, environ: dict[str, str]) -> None:
    said = run("--rdma", "off", "--dry-run=json", *MODEL, node=node(), environ=environ)
    assert (said.code, said.codes) == (0, ["GROUP_SUSPECTED"])
    strict = run("--rdma", "off", "--strict", "--dry-run=json", *MODEL, node=node(), environ=environ)
    assert (strict.code, strict.codes) == (78, ["GROUP_SUSPECTED"])
    alone = run(
        "--rdma", "off", "--strict", "--group-size", "1", "--dry-run=json", *MODEL, node=node(), environ=environ
    )
    assert (alone.code, alone.codes) == (0, [])


def test_its_lines_make_the_group(run: Run) -> None:
    flags = ("--leader-address", "sg-node-0-0.sg", "--group-size", "2", "--worker-index", "1")
    done = run(
        "--rdma", "off", "--strict", *flags, "--dry-run=json", *MODEL, node=node(), environ={**TRAINER, **JOB}
    )
    assert (done.code, done.codes) == (0, [])
    assert done.document["identity"] == {
        "leader": "sg-node-0-0.sg",
        "size": 2,
        "index": 1,
        "source": "settings",
    }


@pytest.mark.parametrize("environ", [TRAINER, JOB], ids=["trainer", "job"])
def test_the_check_is_silent(run: Run, environ: dict[str, str]) -> None:
    """The preflight is an Indexed Job; and flags in ``args`` are not seen by ``kubectl exec``."""
    done = run("--rdma", "off", "--strict", "--check=json", node=node(), environ=environ)
    assert "GROUP_SUSPECTED" not in done.out
    assert "looks like a group" not in done.out


@pytest.mark.parametrize(("environ", "said"), [(TRAINER, True), (JOB, False)], ids=["trainer", "job"])
def test_a_rehearsal_alone_is_warned_of_but_for_its_own_job(run: Run, environ: dict[str, str], said: bool) -> None:
    done = run("--rehearse=json", "--rdma", "off", environ=environ)
    assert "one node" in done.err
    assert ("GROUP_SUSPECTED" in done.err) == said


def test_a_recording_tells_the_same_remedy(run: Run, tmp_path: Path) -> None:
    """Of what a ``$(NAME)`` refers to, a snapshot holds that it is there, and not its value."""
    environ = {"SGLANG_ROCE_WORKER_INDEX": "$(MY_RANK)-$(NOT_THERE)", "LWS_WORKER_INDEX": "$(MY_OTHER)"}
    there = {"MY_RANK": "secret-1", "MY_OTHER": "secret-2"}
    archive = tmp_path / "node.tar.gz"
    saved = run("--save-snapshot", str(archive), "--worker-index", "1", environ={**environ, **there})
    assert saved.code == 0, saved.err
    with tarfile.open(archive) as opened:
        (facts,) = [one for one in opened.getmembers() if one.name.endswith("facts.json")]
        text = opened.extractfile(facts).read().decode()  # type: ignore[union-attr]
    assert "secret" not in text
    replay = ("--snapshot", str(archive), "--dry-run", *MODEL)
    assert "no variable NOT_THERE" in run(*replay).err
    assert "MY_OTHER is set, but after LWS_WORKER_INDEX" in run(*replay, environ=UNSET).out


def test_role_based_group_is_a_group(run: Run) -> None:
    environ = {"RBG_LWP_LEADER_ADDRESS": "sg-node-0-0.sg", "RBG_LWP_GROUP_SIZE": "2", "RBG_LWP_WORKER_INDEX": "1"}
    done = run("--rdma", "off", "--dry-run=json", *MODEL, node=node(), environ=environ)
    assert done.code == 0, done.err
    assert done.document["identity"]["source"] == "RBG_LWP_*"


def test_an_own_address_in_the_arguments_alone_is_a_group_there_too(run: Run) -> None:
    """``--dist-init-addr`` is completed by RoleBasedGroup as by LeaderWorkerSet."""
    environ = {"RBG_LWP_LEADER_ADDRESS": "sg-node-0-0.sg", "RBG_LWP_GROUP_SIZE": "2", "RBG_LWP_WORKER_INDEX": "1"}
    address = ("--dist-init-addr", "sg-node-0-0.sg:20000")
    done = run("--rdma", "off", "--dry-run=json", *MODEL, *address, node=node(), environ=environ)
    assert done.document["identity"]["size"] == 2


@pytest.mark.parametrize(
    "argv", [("--nnodes", "2", "--tp", "16"), ("--nnodes=4", "--node-rank", "0"), ("--dist-init-addr", "h:1")]
)
def test_the_head_of_a_ray_cluster_is_no_half_group(argv: tuple[str, ...]) -> None:
    """SGLang 0.5.23 takes --nnodes of it for the nodes on which Ray places the ranks."""
    node = healthy()
    node.facts["environ"] = {}
    plan = plan_of(node, "--", "--model-path", "/m", "--use-ray", *argv)
    assert (plan.exit_code, plan.wait, codes(plan)) == (0, None, [])
    assert plan.argv is not None
    assert plan.argv[-len(argv) :] == argv
    assert "--node-rank" not in plan.argv[: -len(argv)]
