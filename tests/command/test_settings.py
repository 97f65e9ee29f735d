"""Settings: flag, variable, policy key, default; unknown ones name their nearest."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_network

import pytest

from sglang_roce_entry.command.settings import SETTINGS, is_service_link, parse_duration_s, read_settings
from sglang_roce_entry.fabric.nccl.selector import parse_selector
from sglang_roce_entry.invocation import Settings
from sglang_roce_entry.problems import ConfigurationError, EntryError, UsageError


def read(
    flags: dict[str, str] | None = None, environ: dict[str, str] | None = None, policy: str | None = None
) -> Settings:
    return read_settings(
        flags or {}, environ or {}, "policy.yaml" if policy is not None else None, lambda _: policy or ""
    )


def test_precedence() -> None:
    policy = "hca_wait: 10\nrdma: optional\nlinger: 3"
    settings = read({"hca_wait": "30"}, {"SGLANG_ROCE_HCA_WAIT": "20", "SGLANG_ROCE_RDMA": "off"}, policy)
    assert (settings.hca_wait, settings.rdma, settings.linger, settings.family) == (30.0, "off", 3.0, "auto")
    assert settings.origin("hca_wait") == "--hca-wait"
    assert settings.origin("rdma") == "SGLANG_ROCE_RDMA"
    assert settings.origin("linger") == "linger in policy.yaml"
    assert settings.by_flag("hca_wait")
    assert not settings.by_flag("rdma")


def test_empty_means_unset() -> None:
    settings = read({}, {"SGLANG_ROCE_RDMA": "", "SGLANG_ROCE_HCA_WAIT": "  "}, "rdma:\n")
    assert settings.rdma is None
    assert settings.hca_wait == 60.0


def test_the_variables_of_the_tests_do_no_harm() -> None:
    exported = {"SGLANG_ROCE_TEST_CACHE": "/c", "SGLANG_ROCE_TESTS_REQUIRE": "all", "SGLANG_ROCE_ENTRY": "/e"}
    assert read({}, exported) == read()


def test_the_table_and_the_class_agree() -> None:
    """On the settings there are, in the same order."""
    assert [setting.key for setting in SETTINGS] == [one.name for one in fields(Settings)][:-1]


def test_policy_values_of_every_kind() -> None:
    policy = "strict: true\nsubnets: [10.0.0.0/8, 'fd00::/8']\nrdma: off\ngpus: 4\nwait_deadline: 90.5\n"
    settings = read(policy=policy)
    assert settings.strict is True
    assert settings.subnets == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert (settings.rdma, settings.gpus, settings.wait_deadline) == ("off", 4, 90.5)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("hca_wiat: 3", "unknown key 'hca_wiat'"),
        ("hca-wait: 3", "unknown key 'hca-wait'"),
        ("- 1", "not a mapping"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("hca_wait: {a: 1}", "wrong kind"),
        ("hca_wait: soon", "not a duration"),
        ("? [1]\n: 2", "not YAML"),
    ],
)
def test_bad_policies(policy: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(policy=policy)
    assert words in caught.value.message
    assert caught.value.exit_code == 78


def test_unknown_policy_key_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(policy="hca_wiat: 3")
    assert "hca_wait" in caught.value.hint


def test_missing_policy_file() -> None:
    def missing(path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory", path)

    with pytest.raises(ConfigurationError, match="No such file"):
        read_settings({}, {}, "/none.yaml", missing)


def test_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(environ={"SGLANG_ROCE_HCA_WIAT": "3"})
    assert "SGLANG_ROCE_HCA_WIAT" in caught.value.message
    assert "SGLANG_ROCE_HCA_WAIT" in caught.value.hint


SERVICE = {
    "SGLANG_ROCE_LEADER_SERVICE_HOST": "10.96.0.7",
    "SGLANG_ROCE_LEADER_SERVICE_PORT": "30000",
    "SGLANG_ROCE_LEADER_SERVICE_PORT_HTTP": "30000",
    "SGLANG_ROCE_LEADER_PORT": "tcp://10.96.0.7:30000",
    "SGLANG_ROCE_LEADER_PORT_30000_TCP": "tcp://10.96.0.7:30000",
    "SGLANG_ROCE_LEADER_PORT_30000_TCP_PROTO": "tcp",
    "SGLANG_ROCE_LEADER_PORT_30000_TCP_PORT": "30000",
    "SGLANG_ROCE_LEADER_PORT_30000_TCP_ADDR": "10.96.0.7",
}


def test_variables_of_a_service_of_that_name_are_none_of_ours() -> None:
    assert read(environ=SERVICE) == Settings(origins={})


def test_no_setting_looks_like_a_service_link() -> None:
    assert not [setting.variable for setting in SETTINGS if is_service_link(setting.variable)]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("1h", 3600), ("0", 0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1d", "1e3", "nan", "inf", "1.2.3", "999999999", "٣"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration_s(text)


@pytest.mark.parametrize(
    "text", ["=mlx5_0:1,mlx5_1:1", "^mlx5_9", "mlx5", ",mlx5_0", "^=a", "=^", "^", "=", ",", ":1", "^=:1,", "^^"]
)
def test_a_selector_names_a_device_as_nccl_reads_it(text: str) -> None:
    if parse_selector(text).entries:
        assert read({"hca": text}).hca == text
    else:
        with pytest.raises(UsageError, match="names no device"):
            read({"hca": text})


def test_a_bad_flag_is_usage_and_a_bad_variable_configuration() -> None:
    with pytest.raises(UsageError):
        read({"family": "ipv5"})
    with pytest.raises(EntryError) as caught:
        read(environ={"SGLANG_ROCE_FAMILY": "ipv5"})
    assert caught.value.exit_code == 78
    assert "SGLANG_ROCE_FAMILY='ipv5'" in caught.value.message
