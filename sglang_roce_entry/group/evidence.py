"""What only suggests a group: never believed, but a pod that starts alone beside it is warned about.

Most of these controllers restart one pod of a group, which SGLang cannot take back, so that the user decides by
three lines of the manifest. ``WORLD_SIZE``, ``RANK``, ``MASTER_ADDR``, ``NODE_RANK`` and the like are not among
them: they count nodes, pods, processes or GPUs, depending on who has set them.
"""

from __future__ import annotations

from collections.abc import Mapping

from sglang_roce_entry.problems import Problem, config_value

_JOB = "JOB_COMPLETION_INDEX"
_FLAGS = "--leader-address {} --group-size {} --worker-index {}"
_ARGS = f"in args, before SGLang's: {_FLAGS}"
_SHELL = f"before SGLang's arguments: {_FLAGS}"
_ENV = "in env: SGLANG_ROCE_LEADER_ADDRESS={}, SGLANG_ROCE_GROUP_SIZE={}, SGLANG_ROCE_WORKER_INDEX={}"
#: Variable, what must be beside it, whose it is, and its lines. Those who append their variables to the pod's env
#: (Trainer, Volcano, Kthena, Indexed Jobs, Grove before 2026-08) can be referred to in args only. An Indexed Job
#: comes last: Trainer and JobSet make theirs of it.
EVIDENCE: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        *("PET_NNODES", (), "Kubeflow Trainer or PyTorchJob"),
        _ARGS.format("$(PET_MASTER_ADDR)", "$(PET_NNODES)", "$(PET_NODE_RANK)"),
    ),
    (
        *("GROVE_PCSG_TEMPLATE_NUM_PODS", (), "Grove"),
        _ARGS.format(
            "$(GROVE_PCSG_NAME)-$(GROVE_PCSG_INDEX)-LEADER_CLIQUE-0.$(GROVE_HEADLESS_SERVICE)",
            "$(GROVE_PCSG_TEMPLATE_NUM_PODS)",
            "$(GROVE_PCLQ_POD_INDEX)+1 (0 in the leader's clique)",
        ),
    ),
    (
        *("POD_GROUP_SIZE", ("PODSET_NAME",), "AIBrix"),
        _ENV.format("$(PODSET_NAME)-0.$(STORM_SERVICE_NAME)", "$(POD_GROUP_SIZE)", "$(POD_GROUP_INDEX)"),
    ),
    (
        *("GROUP_SIZE", ("ENTRY_ADDRESS", "WORKER_INDEX"), "Kthena"),
        _ARGS.format("$(ENTRY_ADDRESS)", "$(GROUP_SIZE)", "$(WORKER_INDEX)"),
    ),
    (
        *("SKYPILOT_NUM_NODES", (), "SkyPilot"),
        _SHELL.format('"$(echo "$SKYPILOT_NODE_IPS" | head -n1)"', "$SKYPILOT_NUM_NODES", "$SKYPILOT_NODE_RANK"),
    ),
    (
        *("DSTACK_NODES_NUM", (), "dstack"),
        _SHELL.format("$DSTACK_MASTER_NODE_IP", "$DSTACK_NODES_NUM", "$DSTACK_NODE_RANK"),
    ),
    (
        *("SLURM_STEP_NUM_NODES", (), "Slurm"),
        _SHELL.format(
            '"$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n1)"',
            *("$SLURM_STEP_NUM_NODES", "$SLURM_NODEID"),
        ),
    ),
    (
        *("VC_TASK_INDEX", (), "Volcano"),
        _ARGS.format("JOB-TASK-0.JOB", "$(VC_TASK_NUM)", "$(VC_TASK_INDEX)") + ", with one task for all ranks, "
        "VC_TASK_NUM with the name of the task in it",
    ),
    (
        *(_JOB, (), "an Indexed Job or JobSet"),
        _ENV.format(
            "the host name of index 0 with its headless Service",
            *("the completions", "by fieldRef metadata.annotations['batch.kubernetes.io/job-completion-index']"),
        ),
    ),
)
#: Those say which pod this is, not how many there are.
_INDICES = frozenset({"VC_TASK_INDEX", _JOB})


def lines_of(environ: Mapping[str, str]) -> str | None:
    """Return what the controller that has left its variables here needs in the manifest, ``None`` without one."""
    found = _found(environ, jobs=True)
    return f"this looks like {found[1]}: {found[2]}" if found is not None else None


def suspected(environ: Mapping[str, str], *, jobs: bool) -> tuple[Problem, ...]:
    """Return the warning on a pod that starts as one node, although a controller names several.

    ``jobs``: whether an Indexed Job counts. Most are independent tasks, the preflight among them.
    """
    found = _found(environ, jobs=jobs)
    if found is None:
        return ()
    variable, controller, lines = found
    if ":" in environ[variable]:
        lines = f"an elastic job has no fixed size, give it one number of nodes; then {lines}"
    return (
        config_value(
            "GROUP_SUSPECTED",
            f"{variable}={environ[variable]} looks like a group of {controller}, but nothing tells this pod its "
            "place: it starts as one node",
            f"{lines}; or --group-size 1, if it is to serve alone",
        ),
    )


def _found(environ: Mapping[str, str], *, jobs: bool) -> tuple[str, str, str] | None:
    alone = False
    for variable, beside, controller, lines in EVIDENCE:
        text = environ.get(variable, "").strip()
        if not text or not all(environ.get(name, "").strip() for name in beside):
            continue
        if variable in _INDICES:
            # A group of one, by those who count: its Job has an index too.
            several = not alone and (jobs or variable != _JOB)
        else:
            numbers = text.split(":")  # PyTorchJob's elastic 1:4
            several = all(one.isdecimal() and len(one) < 10 for one in numbers) and int(numbers[-1]) > 1
            alone = alone or text == "1"
        if several:
            return variable, controller, lines
    return None
