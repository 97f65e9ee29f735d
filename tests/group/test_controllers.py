"""Each controller of multi-pod groups: whose variables are believed, whose are only warned about, and how they are told."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from sglang_roce_entry.group.evidence import EVIDENCE, lines_of, suspected
from sglang_roce_entry.group.meeting.missing import pod_names
from sglang_roce_entry.group.sources import VARIABLES
from sglang_roce_entry.host.snapshot.variables import is_recorded
from sglang_roce_entry.problems import ConfigurationError
from tests.group.test_identity import LWS, facts, who

if TYPE_CHECKING:
    from collections.abc import Mapping

RBG = {
    "RBG_LWP_LEADER_ADDRESS": "sg-server-0-0.s-sg-server.inference",
    "RBG_LWP_GROUP_SIZE": "2",
    "RBG_LWP_WORKER_INDEX": "1",
}
SAME_AS_RBG = {name.replace("RBG_LWP", "LWS"): text for name, text in RBG.items()}


def refusal(*args: Mapping[str, str], **kwargs: Mapping[str, str]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        who(*args, **kwargs)  # type: ignore[arg-type]
    assert caught.value.exit_code == 78
    return caught.value


# -------------------------------------------------------------------------------- a triple, whole or not at all


def test_role_based_group_counts_like_leader_worker_set() -> None:
    identity = who(RBG)
    assert facts(identity) == ("sg-server-0-0.s-sg-server.inference", 2, 1)
    assert identity.source == "RBG_LWP_*"


def test_other_names_of_role_based_group_mislead_and_are_not_read() -> None:
    others = {"RBG_ROLE_INDEX": "0", "RBG_COMPONENT_INDEX": "0", "RBG_GROUP_NAME": "sg"}
    assert facts(who({**RBG, **others})) == facts(who(RBG))
    assert facts(who(others)) == (None, 1, 0)


@pytest.mark.parametrize("missing", sorted(RBG))
def test_half_a_triple_is_none(missing: str) -> None:
    half = {name: text for name, text in RBG.items() if name != missing}
    assert refusal(half).code == "HALF_IDENTITY"
    field = VARIABLES[missing]
    text = RBG[missing]
    assert facts(who(half, settings={field: text})) == facts(who(RBG))


@pytest.mark.parametrize("names", [c for n in (1, 2) for c in itertools.combinations(sorted(LWS), n)])
def test_never_one_s_size_with_another_s_index(names: tuple[str, ...]) -> None:
    """What is missing of one controller is not taken from the other, whole or half."""
    some = {name: SAME_AS_RBG[name] for name in names}
    identity = who({**some, **RBG})
    assert (facts(identity), identity.source) == (facts(who(RBG)), "RBG_LWP_*")
    rest = {name: text for name, text in RBG.items() if name.replace("RBG_LWP", "LWS") not in names}
    assert refusal({**some, **rest}).code == "HALF_IDENTITY"


def test_leader_worker_set_is_asked_first() -> None:
    assert who({**RBG, **SAME_AS_RBG}).source == "LWS_*"


@pytest.mark.parametrize(("name", "text"), [("SIZE", "3"), ("INDEX", "0"), ("ADDRESS", "other-0.x.y")])
def test_two_that_differ_contradict(name: str, text: str) -> None:
    (changed,) = [one for one in SAME_AS_RBG if one.endswith(name)]
    both = {**RBG, **SAME_AS_RBG, changed: text}
    failure = refusal(both)
    assert failure.code == "IDENTITY_CONTRADICTION"
    for part in (changed, changed.replace("LWS", "RBG_LWP"), text):
        assert part in failure.message
    field = VARIABLES[changed]
    for agreeing in (text, SAME_AS_RBG[changed]):
        if (field, agreeing) != ("index", "0"):
            assert who(both, settings={field: agreeing}).in_group
    assert refusal(both, settings={field: "9" if field != "leader" else "third-0.x"}).code in {
        "IDENTITY_CONTRADICTION",
        "INDEX_OUT_OF_RANGE",
    }


def test_a_name_and_an_address_take_a_look_up() -> None:
    assert who({**RBG, **SAME_AS_RBG, "LWS_LEADER_ADDRESS": "10.0.0.1"}).leader == "10.0.0.1"


def test_an_argument_contradicts_either() -> None:
    assert refusal(RBG, arguments={"size": "4"}).code == "IDENTITY_CONTRADICTION"
    assert who(RBG, arguments={"size": "02"}).size == 2


def test_what_counts_nodes_pods_processes_or_gpus_is_never_used() -> None:
    """torchrun, RunPod, PAI-DLC, Open MPI, Ray: the same names, another unit each."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "NNODES", "NUM_NODES")
    others = ("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "RAY_NODE_COUNT", "K_MPI_JOB_ROLE", "PRIMARY_ADDR")
    environ = dict.fromkeys((*names, *others), "8")
    assert facts(who(environ)) == (None, 1, 0)
    assert suspected(environ, jobs=True) == ()
    assert facts(who({**environ, **RBG})) == facts(who(RBG))


# -------------------------------------------------------------------------------- $(NAME)


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_a_name_left_in_a_variable_is_never_unset(name: str) -> None:
    whole = LWS if name in LWS else RBG
    failure = refusal({**whole, name: "$(X)"})
    assert failure.code == "IDENTITY_NOT_EXPANDED"
    assert failure.message == f"{name} '$(X)' was not expanded"
    assert "no variable X" in failure.hint
    assert refusal({name: "$(X)"}).code == "IDENTITY_NOT_EXPANDED"  # alone, and with a pod name that would do
    assert refusal({**whole, name: "$(X)", "HOSTNAME": "sglang-0-1"}).code == "IDENTITY_NOT_EXPANDED"
    own = {"leader": "sglang-0.x", "size": "2", "index": "1"}[VARIABLES[name]]
    assert who({**whole, name: "$(X)"}, settings={VARIABLES[name]: own}).in_group


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        (
            "$(X)",
            {"X": "1"},
            "X is set, but after LWS_WORKER_INDEX in the pod's env: give --worker-index $(X) in args",
        ),
        ("$(X)", {}, "this pod has no variable X: check its spelling"),
        ("$(LWS_WORKER_INDEX)", {}, "this pod has no variable LWS_WORKER_INDEX"),
        ("$((X + 1))", {"X": "0"}, "write --worker-index $(X)+1 in args"),
        ("$((${X}+1))", {"X": "0"}, "write --worker-index $(X)+1 in args"),
    ],
)
def test_one_of_three_remedies(text: str, environ: dict[str, str], words: str) -> None:
    assert words in refusal({**LWS, **environ, "LWS_WORKER_INDEX": text}).hint


def test_an_argument_of_sglang_stays_in_the_command() -> None:
    """A setting beside it does not overrule it: SGLang reads the text."""
    failure = refusal(LWS, settings={"index": "1"}, arguments={"index": "$((X + 1))"})
    assert failure.code == "IDENTITY_NOT_EXPANDED"
    assert "--worker-index $(X)+1" in failure.hint
    assert "remove --node-rank" in failure.hint


# -------------------------------------------------------------------------------- N+1


def test_an_index_may_be_a_sum() -> None:
    size = {"size": "4", "leader": "ldr-0.x"}
    assert who(settings={**size, "index": "2+1"}).index == 3
    assert who(settings={**size, "index": "0+1"}, arguments={"index": "1"}).index == 1
    assert refusal(settings={**size, "index": "3+1"}).code == "INDEX_OUT_OF_RANGE"


@pytest.mark.parametrize("text", ["1+", "+1", "1 + 1", "1+1+1", "1-1", "x+1", "1+1234567890", "١+1"])
def test_no_other_arithmetic(text: str) -> None:
    assert refusal(settings={"size": "4", "leader": "ldr-0.x", "index": text}).code == "IDENTITY_NUMBER"


def test_a_sum_is_for_the_index_in_our_own_settings() -> None:
    assert refusal({**LWS, "LWS_WORKER_INDEX": "0+1"}).code == "IDENTITY_NUMBER"
    assert refusal(LWS, arguments={"index": "0+1"}).exit_code == 78
    assert refusal(LWS, settings={"size": "1+1"}).code == "IDENTITY_NUMBER"


# -------------------------------------------------------------------------------- evidence

GROUPS = {
    "Kubeflow Trainer or PyTorchJob": {"PET_NNODES": "2", "JOB_COMPLETION_INDEX": "1"},
    "Grove": {"GROVE_PCSG_TEMPLATE_NUM_PODS": "2"},
    "AIBrix": {"POD_GROUP_SIZE": "2", "PODSET_NAME": "sg"},
    "Kthena": {"GROUP_SIZE": "2", "ENTRY_ADDRESS": "sg.x", "WORKER_INDEX": "0"},
    "SkyPilot": {"SKYPILOT_NUM_NODES": "2"},
    "dstack": {"DSTACK_NODES_NUM": "2"},
    "Slurm": {"SLURM_STEP_NUM_NODES": "2"},
    "Volcano": {"VC_TASK_INDEX": "0"},
    "an Indexed Job or JobSet": {"JOB_COMPLETION_INDEX": "0"},
}


def test_every_controller_is_among_them() -> None:
    assert set(GROUPS) == {controller for _, _, controller, _ in EVIDENCE}


@pytest.mark.parametrize("controller", GROUPS)
def test_a_pod_alone_beside_a_group(controller: str) -> None:
    (problem,) = suspected(GROUPS[controller], jobs=True)
    assert (problem.code, problem.severity, problem.exit_code, problem.value) == (
        *("GROUP_SUSPECTED", "warning", 78),
        True,
    )
    assert controller in problem.message
    assert "--group-size 1" in problem.hint
    lines = lines_of(GROUPS[controller]) or ""
    assert controller in lines
    for flag, name in (("--leader-address", "LEADER_ADDRESS"), ("--worker-index", "WORKER_INDEX")):
        assert flag in lines or f"SGLANG_ROCE_{name}=" in lines
    assert who(GROUPS[controller]).source == "none"  # suspected, not believed


@pytest.mark.parametrize(
    "environ",
    [
        {"PET_NNODES": "1"},
        {"PET_NNODES": "1", "JOB_COMPLETION_INDEX": "0"},  # a TrainJob of one node
        {"PET_NNODES": "1:1"},
        {"PET_NNODES": "two"},
        {"PET_NNODES": "9" * 5000},
        {"PET_NNODES": ""},
        {"SLURM_NNODES": "2", "SLURM_NODEID": "0"},  # the batch script: there is no second process
        {"POD_GROUP_SIZE": "2"},
        {"GROUP_SIZE": "2", "WORKER_INDEX": "0"},
        {"JOB_COMPLETION_INDEX": ""},
        {"DSTACK_NODES_NUM": "1"},
    ],
)
def test_no_group_is_suspected(environ: dict[str, str]) -> None:
    assert suspected(environ, jobs=True) == ()


def test_an_elastic_job_is_a_group() -> None:
    (problem,) = suspected({"PET_NNODES": "1:4"}, jobs=True)
    assert problem.hint.startswith("an elastic job has no fixed size")


def test_most_indexed_jobs_are_independent_tasks() -> None:
    assert suspected({"JOB_COMPLETION_INDEX": "0"}, jobs=False) == ()
    assert suspected(GROUPS["Kubeflow Trainer or PyTorchJob"], jobs=False) != ()


def test_an_incomplete_identity_names_flag_and_variable_first() -> None:
    failure = refusal({"LWS_GROUP_SIZE": "2", "LWS_LEADER_ADDRESS": "a-0.b", **GROUPS["an Indexed Job or JobSet"]})
    assert failure.hint.startswith("set --worker-index (SGLANG_ROCE_WORKER_INDEX), or run under LeaderWorkerSet")
    assert "job-completion-index" in failure.hint
    assert refusal({"LWS_GROUP_SIZE": "2"}).hint.startswith(
        "set --leader-address (SGLANG_ROCE_LEADER_ADDRESS) and"
    )


def test_a_snapshot_holds_what_decides() -> None:
    decide = {*VARIABLES, *itertools.chain.from_iterable((name, *beside) for name, beside, _, _ in EVIDENCE)}
    assert {name for name in decide if not is_recorded(name)} == set()


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize("suffix", ["24567", "99999", "2222a"])
def test_the_random_suffix_of_a_job_is_no_index(suffix: str) -> None:
    """The leader of an Indexed Job is called ``<job>-0-<5 of 27 characters>``: one of 1000 is all digits."""
    settings = {"leader": "sg-0.sg-group", "size": "2", "index": "0"}
    for names in ({"HOSTNAME": "sg-0"}, {}):
        identity = who({"POD_NAME": f"sg-0-{suffix}", **names}, settings=settings)
        assert (identity.index, identity.problems) == (0, ())
    del settings["index"]
    assert who({"POD_NAME": f"sg-0-{suffix}", "HOSTNAME": "sg-0"}, settings=settings).index == 0
    assert refusal({"POD_NAME": f"sg-0-{suffix}"}, settings=settings).code == "HALF_IDENTITY"


HASH_KEYS = ["3f9a2c1b", "12345678", "00000001", "99999999"]


@pytest.mark.parametrize("key", HASH_KEYS)
@pytest.mark.parametrize("index", [0, 1])
def test_a_group_that_is_named_by_a_hash(key: str, index: int) -> None:
    """LeaderWorkerSet's ``groupIdentity: Hash``: the leader's host name is no pod's name, nor is it a number.

    (KEP-898: host name ``<lws>-<8 of the group's key>``; the leader pod is a Deployment's, ``<lws>-<hash>-<5>``, and
    the workers are named after that pod.) The index is LWS_WORKER_INDEX's alone, and nobody's name is predicted.
    """
    leader_pod = "sglang-7d9c5b4f6d-x2x4z"
    environ = {
        "LWS_LEADER_ADDRESS": f"sglang-{key}.sglang.default",
        "LWS_GROUP_SIZE": "2",
        "LWS_WORKER_INDEX": str(index),
        "POD_NAME": leader_pod if index == 0 else f"{leader_pod}-1",
        "HOSTNAME": f"sglang-{key}" if index == 0 else f"{leader_pod}-1",
    }
    identity = who(environ)
    assert facts(identity) == (f"sglang-{key}.sglang.default", 2, index)
    assert identity.problems == ()
    assert pod_names(identity, environ["HOSTNAME"], environ)(1) == ""


def test_a_group_whose_leader_is_an_address() -> None:
    """Pods that were admitted before host names existed get the leader's IP."""
    environ = {**LWS, "LWS_LEADER_ADDRESS": "10.244.1.17", "POD_NAME": "sglang-7d9c5b4f6d-x2x4z-1"}
    identity = who(environ)
    assert (facts(identity), identity.problems) == (("10.244.1.17", 2, 1), ())
    assert pod_names(identity, "x", environ)(1) == ""


def test_names_that_are_predicted() -> None:
    assert pod_names(who(LWS), "x", LWS)(1) == "sglang-0-1.sglang.default"
    assert pod_names(who(RBG), "x", RBG)(1) == ""  # only its leaders have names
