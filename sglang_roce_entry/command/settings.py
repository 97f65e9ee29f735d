"""The settings: one table, three places to write them.

Precedence: flag, then ``SGLANG_ROCE_*``, then the policy file, then the default. Empty means unset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from sglang_roce_entry.command.policy_file import nearest, read_policy
from sglang_roce_entry.invocation import Settings
from sglang_roce_entry.named_file import read_named
from sglang_roce_entry.problems import ConfigurationError, EntryError, UsageError
from sglang_roce_entry.unexpanded import remedy, was_not_expanded

PREFIX = "SGLANG_ROCE_"
_OF_THE_TESTS = (f"{PREFIX}TEST_", f"{PREFIX}TESTS_", f"{PREFIX}ENTRY")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. ``parse`` turns text into the value or raises ``ValueError`` with the reason.

    Its default is that of :class:`~sglang_roce_entry.invocation.Settings`.
    """

    key: str  # as in the policy file: x_y
    parse: Callable[[str], Any]
    metavar: str
    summary: str
    alone: str | None = None  # what the flag means without a value, if it may have none

    @property
    def flag(self) -> str:
        """``--x-y``."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """``SGLANG_ROCE_X_Y``."""
        return PREFIX + self.key.upper()


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"is not one of: {', '.join(allowed)}")
        return text

    return parse


_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def parse_switch(text: str) -> bool:
    """Return the boolean of ``1``, ``yes``, ``true``, ``on`` and their opposites."""
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError("is neither yes nor no")


_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration_s(text: str) -> float:
    """Return seconds of ``90``, ``90s``, ``1.5m`` or ``1h``."""
    number = text.rstrip("smh")
    unit = text[len(number) :]
    plain = number.replace(".", "", 1)
    if unit not in _UNITS_S or not plain.isascii() or not plain.isdecimal():
        raise ValueError("is not a duration (90, 90s, 30m, 1h)")
    value = float(number) * _UNITS_S[unit]
    if value > 7 * 24 * 3600:
        raise ValueError("is longer than a week")
    return value


def _parse_timeout_s(text: str) -> float:
    value = parse_duration_s(text)
    if value <= 0:
        raise ValueError("leaves no time for an answer")
    return value


def _parse_subnets(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        try:
            networks.append(ip_network(part))
        except ValueError as problem:
            subject = "is" if len(parts) == 1 else f"has {part!r}, which is"
            raise ValueError(f"{subject} not a network{_meant(part)}") from problem
    return tuple(networks)


def _meant(part: str) -> str:
    """Return the network of an address with a prefix length, for the message."""
    try:
        return f" ({ip_network(part, strict=False)} is)"
    except ValueError:
        return ""


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise ValueError("is not a port number")
    value = int(text)
    if not 1 <= value <= 65535:
        raise ValueError("is out of range (1 to 65535)")
    return value


def _parse_gpus(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or int(text) == 0:
        raise ValueError("is neither auto nor a number of GPUs")
    return int(text)


def _parse_selector(text: str) -> str | None:
    if text == "all":
        return None
    # As NCCL reads it: "^" and "=" in this order, then a list in which an entry without a name is skipped.
    entries = text.removeprefix("^").removeprefix("=").split(",")
    if all(entry.partition(":")[0] == "" for entry in entries):
        raise ValueError("names no device (=mlx5_0:1,mlx5_1:1 exact, mlx5 a prefix, ^mlx5_9 all but)")
    if any(character.isspace() for character in text):
        raise ValueError("has spaces, which NCCL takes as part of the name")
    return text


def _parse_interface(text: str) -> str | None:
    if text == "auto":
        return None
    if len(text) > 15 or "/" in text or any(c.isspace() or c in "=^," for c in text):
        raise ValueError("is not an interface name (one exact name, without '=', '^' or a list)")
    return text


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "rdma",
        _one_of("required", "optional", "off"),
        "required|optional|off",
        "required in a group, else optional; off: NCCL_IB_DISABLE=1",
    ),
    Setting("strict", parse_switch, "[yes|no]", "wrong or ambiguous values are errors (no)", alone="yes"),
    Setting("hca", _parse_selector, "SELECTOR", "ports to consider, in NCCL's grammar: =mlx5_0:1,mlx5_1:1 (all)"),
    Setting("hca_wait", parse_duration_s, "SECONDS", "how long to wait for HCAs that are coming up (60)"),
    Setting("subnets", _parse_subnets, "CIDR,...", "networks to prefer, in this order; may name 169.254/16"),
    Setting("family", _one_of("auto", "ipv4", "ipv6"), "auto|ipv4|ipv6", "address family of the GIDs (auto)"),
    Setting(
        "foreign_gids",
        _one_of("refuse", "allow"),
        "refuse|allow",
        "refuse GIDs that are not this pod's, or knowingly use them (refuse)",
    ),
    Setting("interface", _parse_interface, "NAME", "control interface (the one towards the leader)"),
    Setting("leader_address", str, "HOST", "override the leader's address"),
    Setting("group_size", str, "N", "override the group size"),
    Setting("worker_index", str, "N", "override the worker index"),
    Setting("dist_init", _parse_port, "PORT", "rendezvous port on the leader (20000)"),
    Setting("wait_deadline", parse_duration_s, "SECONDS", "how long to wait for the group (1800; 0: not at all)"),
    Setting(
        "meeting",
        _one_of("auto", "off"),
        "auto|off",
        "compare a group's nodes before SGLang starts; off: only wait for its port (auto)",
    ),
    Setting(
        "zmq_peers",
        _one_of("auto", "off"),
        "auto|off",
        "whether SGLang's sockets (0.5.23) accept the meeting's members only (auto)",
    ),
    Setting(
        "prove_rails",
        _one_of("auto", "off"),
        "auto|off",
        "send RDMA over each rail of a group before SGLang starts (auto)",
    ),
    Setting(
        "on_timeout",
        _one_of("exit", "exec"),
        "exit|exec",
        "exit 124, or launch anyway: torch keeps retrying for 600 s (exit)",
    ),
    Setting("gpus", _parse_gpus, "N", "GPUs of this node (auto)"),
    Setting("tp", _one_of("auto", "off"), "auto|off", "compute --tp-size for groups (auto)"),
    Setting("probe_timeout", _parse_timeout_s, "SECONDS", "time limit of a --probe (25; liveness and ranks 10)"),
    Setting("linger", parse_duration_s, "SECONDS", "pause before a fatal exit (15 in Kubernetes, else 0)"),
    Setting("log_format", _one_of("text", "json"), "text|json", "form of the log on stderr (text)"),
)

BY_FLAG = {setting.flag: setting for setting in SETTINGS}
_BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}
_BY_KEY = {setting.key: setting for setting in SETTINGS}


def read_settings(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    policy_path: str | None = None,
    read_file: Callable[[str], str] = read_named,
) -> Settings:
    """Return the settings. ``flags`` maps keys to texts. Raises ``EntryError``.

    A bad flag is a usage error; an unknown or bad variable or policy key a configuration error.
    """
    _refuse_unknown_variables(environ)
    policy = read_policy(policy_path, read_file, _BY_KEY) if policy_path else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        written = _written(setting, flags, environ, policy, policy_path)
        if written is not None:
            values[setting.key], origins[setting.key] = _parsed(setting, *written, environ), written[1]
    return Settings(**values, origins=origins)


def readable_settings(
    flags: Mapping[str, str], environ: Mapping[str, str], policy_path: str | None = None
) -> tuple[Settings, frozenset[str]]:
    """Return the settings that can be read where not all can, and the keys of those that cannot."""
    policy: Mapping[str, str] = {}
    if policy_path:
        with suppress(EntryError):
            policy = read_policy(policy_path, read_named, _BY_KEY)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    unread = set()
    for setting in SETTINGS:
        written = _written(setting, flags, environ, policy, policy_path)
        if written is None:
            continue
        try:
            values[setting.key], origins[setting.key] = _parsed(setting, *written, environ), written[1]
        except EntryError:
            unread.add(setting.key)
    return Settings(**values, origins=origins), frozenset(unread)


def _written(
    setting: Setting,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    policy: Mapping[str, str],
    policy_path: str | None,
) -> tuple[str, str] | None:
    """Return the text of a setting that counts, and where it was written; ``None``: nowhere."""
    sources = (
        (flags.get(setting.key, ""), setting.flag),
        (environ.get(setting.variable, ""), setting.variable),
        (policy.get(setting.key, ""), f"{setting.key} in {policy_path}"),
    )
    return next((source for source in sources if source[0].strip()), None)


def _parsed(setting: Setting, text: str, origin: str, environ: Mapping[str, str]) -> Any:
    if was_not_expanded(text):
        raise ConfigurationError(
            "SETTING_NOT_EXPANDED",
            f"{origin} {text!r} was not expanded",
            remedy(text, origin, environ, setting.flag, setting.variable),
        )
    try:
        return setting.parse(text.strip())
    except ValueError as problem:
        raise bad_value(setting, origin, text, problem) from problem


def bad_value(setting: Setting, origin: str, text: str, problem: ValueError) -> UsageError | ConfigurationError:
    """Return the failure of a value that ``setting`` refuses, written at ``origin``."""
    if origin.startswith("--"):
        hint = f"write {setting.flag} {setting.metavar}: {setting.summary}"
        return UsageError(f"{origin} {text!r} {problem}", hint)
    hint = f"write {setting.metavar}: {setting.summary}"
    joint = "=" if origin == setting.variable else ": "  # of a policy: "hca_wait in policy.yaml"
    return ConfigurationError("SETTING", f"{origin}{joint}{text!r} {problem}", hint)


#: What Kubernetes injects for a Service whose name begins with "sglang-roce": docs of the kubelet,
#: "Environment variables" of Services (enableServiceLinks).
_SERVICE_ENDINGS = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT")
_PROTOCOLS = frozenset({"TCP", "UDP", "SCTP"})


def is_service_link(name: str) -> bool:
    """Return whether Kubernetes injects a variable of this name for a Service."""
    if name.endswith(_SERVICE_ENDINGS) or "_SERVICE_PORT_" in name:
        return True
    parts = name.split("_")
    return any(
        one == "PORT" and number.isdecimal() and protocol in _PROTOCOLS
        for one, number, protocol in zip(parts, parts[1:], parts[2:])  # noqa: B905 - a sliding window
    )


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    for name in sorted(environ):
        if name.startswith(_OF_THE_TESTS):
            continue  # exported by developers of this program
        if name.startswith(PREFIX) and name not in _BY_VARIABLE and not is_service_link(name):
            raise ConfigurationError(
                "UNKNOWN_VARIABLE",
                f"{name} is not a setting of sglang-roce-entry",
                f"{nearest(name, _BY_VARIABLE)} All settings: sglang-roce-entry --help",
            )
