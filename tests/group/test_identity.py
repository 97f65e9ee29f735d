"""Who a pod is, in the stated order; an incomplete identity is an error, never a default."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_roce_entry.group.identity import Identity, parse_podinfo, resolve_identity
from sglang_roce_entry.group.sources import IdentityInputs
from sglang_roce_entry.problems import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

LWS = {
    "LWS_LEADER_ADDRESS": "sglang-0.sglang.default",
    "LWS_GROUP_SIZE": "2",
    "LWS_WORKER_INDEX": "1",
}
KEY = "leaderworkerset.sigs.k8s.io/"


def who(
    environ: Mapping[str, str] | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    arguments: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    hostname: str | None = None,
) -> Identity:
    flags = {"leader": "--leader-address", "size": "--group-size", "index": "--worker-index"}
    names = {"leader": "--dist-init-addr", "size": "--nnodes", "index": "--node-rank"}
    return resolve_identity(
        IdentityInputs(
            {key: (text, flags[key]) for key, text in (settings or {}).items()},
            {key: (text, names[key]) for key, text in (arguments or {}).items()},
            environ or {},
            labels or {},
            annotations or {},
            hostname,
        )
    )


def facts(identity: Identity) -> tuple[str | None, int, int]:
    return identity.leader, identity.size, identity.index


def test_lws_variables() -> None:
    identity = who(LWS)
    assert facts(identity) == ("sglang-0.sglang.default", 2, 1)
    assert identity.source == "LWS_*"


def test_none_at_all_is_one_node() -> None:
    identity = who({"HOSTNAME": "gpu-0-1"}, hostname="gpu-0-1")
    assert facts(identity) == (None, 1, 0)
    assert identity.source == "none"


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_values_are_unset(text: str) -> None:
    assert facts(who(dict.fromkeys(LWS, text))) == (None, 1, 0)
    with pytest.raises(ConfigurationError) as caught:
        who({**LWS, "LWS_WORKER_INDEX": text})
    assert caught.value.code == "HALF_IDENTITY"
    assert "LWS_WORKER_INDEX" in caught.value.message
    assert caught.value.exit_code == 78


BAD = {
    "index abc": ({"LWS_WORKER_INDEX": "abc"}, "'abc'"),
    "index 1.0": ({"LWS_WORKER_INDEX": "1.0"}, "'1.0'"),
    "index arabic digits": ({"LWS_WORKER_INDEX": "١"}, "whole number"),
    "index out of range": ({"LWS_WORKER_INDEX": "2"}, "worker index 2"),
    "index negative": ({"LWS_WORKER_INDEX": "-1"}, "negative"),
    "size zero": ({"LWS_GROUP_SIZE": "0"}, "group size 0"),
    "size text": ({"LWS_GROUP_SIZE": "two"}, "'two'"),
    "leader with scheme": ({"LWS_LEADER_ADDRESS": "tcp://sglang-0"}, "scheme"),
    "leader with port": ({"LWS_LEADER_ADDRESS": "sglang-0:20000"}, "port"),
    "leader with spaces": ({"LWS_LEADER_ADDRESS": "sglang-0 x"}, "spaces"),
    "leader bare IPv6": ({"LWS_LEADER_ADDRESS": "fd00::1"}, "IPv6 address without brackets"),
    "leader IPv6 with port": ({"LWS_LEADER_ADDRESS": "[fd00::1]:20000"}, "port"),
    "leader in wrong brackets": ({"LWS_LEADER_ADDRESS": "[sglang-0]"}, "brackets"),
    "leader no name": ({"LWS_LEADER_ADDRESS": "sglang_0!"}, "not a host name"),
    "leader four numbers": ({"LWS_LEADER_ADDRESS": "10.0.0.300"}, "not an IPv4"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_values_are_named(name: str) -> None:
    changes, words = BAD[name]
    with pytest.raises(ConfigurationError) as caught:
        who({**LWS, **changes})
    assert words in caught.value.message
    assert next(iter(changes.values())) in caught.value.message or name == "size zero"
    assert caught.value.exit_code == 78
    assert caught.value.hint


@pytest.mark.parametrize("missing", sorted(LWS))
def test_half_an_identity(missing: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        who({name: text for name, text in LWS.items() if name != missing})
    assert caught.value.code == "HALF_IDENTITY"


def test_a_group_of_one_needs_no_leader() -> None:
    assert facts(who({"LWS_GROUP_SIZE": "1"})) == (None, 1, 0)
    assert facts(who({**LWS, "LWS_GROUP_SIZE": "1", "LWS_WORKER_INDEX": "0"}))[1:] == (1, 0)


def test_ipv6_leader_in_brackets() -> None:
    assert facts(who({**LWS, "LWS_LEADER_ADDRESS": "[fd00:0::1]"}))[0] == "fd00::1"


def test_settings_beat_everything_per_field() -> None:
    identity = who(LWS, settings={"index": "0", "leader": "10.0.0.1"})
    assert facts(identity) == ("10.0.0.1", 2, 0)
    assert identity.source == "settings + LWS_*"


def test_sglang_arguments_completed_by_lws() -> None:
    identity = who(LWS, arguments={"size": "2"})
    assert facts(identity) == ("sglang-0.sglang.default", 2, 1)
    alone = who(arguments={"size": "4", "index": "3", "leader": "10.0.0.1"})
    assert facts(alone) == ("10.0.0.1", 4, 3)
    assert alone.source == "SGLang arguments"


@pytest.mark.parametrize(
    "arguments",
    [{"size": "4"}, {"index": "0"}, {"leader": "other-0.sglang.default"}, {"size": "x"}],
)
def test_arguments_that_contradict_the_group(arguments: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        who(LWS, arguments=arguments)
    assert next(iter(arguments.values())) in caught.value.message
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "leader",
    [
        "sglang-0.sglang.default",
        "SGLANG-0.sglang.default.",
        "sglang-0.sglang.default.svc.cluster.local",
        "10.0.0.1",
    ],
)
def test_arguments_that_say_the_same_otherwise(leader: str) -> None:
    assert who(LWS, arguments={"leader": leader}).size == 2


def test_a_line_break_behind_the_leader_is_no_part_of_it() -> None:
    """A value from a file of a ConfigMap."""
    assert facts(who({**LWS, "LWS_LEADER_ADDRESS": "sglang-0.sglang.default\n"})) == facts(who(LWS))
    assert who({**LWS, "LWS_LEADER_ADDRESS": "10.0.0.1 "}).leader == "10.0.0.1"


def test_a_setting_that_contradicts_an_argument() -> None:
    with pytest.raises(ConfigurationError, match="contradicts"):
        who(LWS, settings={"size": "3"}, arguments={"size": "2"})


def test_downward_api_volume_completes() -> None:
    environ = {"LWS_LEADER_ADDRESS": "sglang-0.sglang.default"}
    identity = who(environ, labels={f"{KEY}worker-index": "3"}, annotations={f"{KEY}size": "4"})
    assert facts(identity) == ("sglang-0.sglang.default", 4, 3)
    assert identity.source == "LWS_* + downward API"


@pytest.mark.parametrize(
    ("names", "index"),
    [
        ({"POD_NAME": "sglang-0"}, 0),
        ({"POD_NAME": "sglang-0-3"}, 3),
        ({"HOSTNAME": "sglang-0-2"}, 2),
        ({"HOSTNAME": "node7", "POD_NAME": "sglang-0-1"}, 1),
    ],
)
def test_pod_name_against_the_leaders(names: Mapping[str, str], index: int) -> None:
    environ = {"LWS_LEADER_ADDRESS": "sglang-0.sglang.default", "LWS_GROUP_SIZE": "4", **names}
    assert facts(who(environ))[2] == index


@pytest.mark.parametrize("name", ["sglang-1", "sglang-0-x", "sglang-0-0", "gpu-0-1", "sglang-01"])
def test_other_names_say_nothing(name: str) -> None:
    environ = {"LWS_LEADER_ADDRESS": "sglang-0.sglang.default", "LWS_GROUP_SIZE": "4", "HOSTNAME": name}
    with pytest.raises(ConfigurationError, match="group size 4 are known, but not the worker index"):
        who(environ)


def test_a_leader_whose_name_ends_in_digits_is_no_worker_of_itself() -> None:
    environ = {"LWS_LEADER_ADDRESS": "llama-3-8b-0-0.llama-3-8b-0-0.default", "LWS_GROUP_SIZE": "2"}
    assert who({**environ, "POD_NAME": "llama-3-8b-0-0"}).index == 0
    assert who({**environ, "POD_NAME": "llama-3-8b-0-0-1"}).index == 1


def test_a_pod_name_that_disagrees_is_said() -> None:
    identity = who({**LWS, "POD_NAME": "sglang-0-7", "LWS_GROUP_SIZE": "8"})
    assert identity.index == 1
    assert [problem.code for problem in identity.problems] == ["POD_NAME_DISAGREES"]


def test_podinfo_file() -> None:
    text = f'{KEY}worker-index="2"\n{KEY}size="4"\nother="a\\"b\\\\c"\nbroken\n'
    assert parse_podinfo(text) == {f"{KEY}worker-index": "2", f"{KEY}size": "4", "other": 'a"b\\c'}


@given(st.dictionaries(st.sampled_from(sorted(LWS)), st.text(max_size=20)))
def test_any_values_give_an_identity_or_a_configuration_error(environ: dict[str, str]) -> None:
    try:
        identity = who(environ)
    except ConfigurationError as failure:
        assert failure.exit_code == 78
    else:
        assert 0 <= identity.index < identity.size
