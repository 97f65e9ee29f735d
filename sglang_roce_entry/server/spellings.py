"""The spellings of SGLang's options that matter here: the one table of them.

Checked against the real parsers of 25 releases from 0.4.3.post2 to 0.5.23. SGLang leaves argparse's
abbreviations on, so a user's ``--tp 16`` is ``--tp-size`` by being its unique prefix (``--tp`` itself
is registered nowhere). For each spelling the table holds the shortest prefix that means this option
in some release and no other option in any. A prefix that a newer release finds ambiguous (``--pp``
from 0.5.6 on) stays in: SGLang rejects it there by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: What ``python3 -m`` runs.
MODULE = "sglang.launch_server"
CHECKED_FROM, CHECKED_TO = "0.4.3.post2", "0.5.23"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: where argparse stores it, its spellings each with the shortest prefix, flag or value."""

    dest: str
    spellings: tuple[tuple[str, str], ...]
    flag: bool = False
    secret: bool = False

    @property
    def name(self) -> str:
        """The spelling that is written and shown."""
        return self.spellings[0][0]


OPTIONS: tuple[Option, ...] = (
    Option("tp_size", (("--tp-size", "--tp"), ("--tensor-parallel-size", "--te"))),
    # --pp is unique only up to 0.5.3; later releases have --pp-max-micro-batch-size.
    Option("pp_size", (("--pp-size", "--pp"), ("--pipeline-parallel-size", "--pi"))),
    Option("dp_size", (("--dp-size", "--dp"), ("--data-parallel-size", "--da"))),
    # From 0.5.22 on. --attn alone was --attn-cp-size, --attention was --attention-backend.
    Option(
        "attn_dp_size",
        (("--attn-dp-size", "--attn-d"), ("--attention-data-parallel-size", "--attention-d")),
    ),
    Option("dwdp_size", (("--dwdp-size", "--dw"),)),
    Option("enable_dp_attention", (("--enable-dp-attention", "--enable-dp"),), flag=True),
    Option("nnodes", (("--nnodes", "--nn"),)),
    Option("node_rank", (("--node-rank", "--no"),)),
    Option("dist_init_addr", (("--dist-init-addr", "--dist"), ("--nccl-init-addr", "--nc"))),
    Option("dist_timeout", (("--dist-timeout", "--dist-t"),)),
    Option("host", (("--host", "--ho"),)),
    Option("port", (("--port", "--po"),)),
    Option("device", (("--device", "--dev"),)),
    Option("base_gpu_id", (("--base-gpu-id", "--b"),)),
    Option("gpu_id_step", (("--gpu-id-step", "--gp"),)),
    Option("disaggregation_mode", (("--disaggregation-mode", "--disaggregation-m"),)),
    Option(
        "disaggregation_transfer_backend",
        (("--disaggregation-transfer-backend", "--disaggregation-t"),),
    ),
    Option("disaggregation_ib_device", (("--disaggregation-ib-device", "--disaggregation-i"),)),
    Option("mooncake_ib_device", (("--mooncake-ib-device", "--moo"),)),
    Option("moe_a2a_backend", (("--moe-a2a-backend", "--moe-a"),)),
    # Up to 0.5.2, where --enable-de was enough; later --enable-deterministic-inference, --enable-deepseek-...
    # and --enable-deepep-waterfill begin alike, so that nothing shorter has one meaning.
    Option("enable_deepep_moe", (("--enable-deepep-moe", "--enable-deepep-m"),), flag=True),
    Option("elastic_ep_backend", (("--elastic-ep-backend", "--el"),)),
    Option("ep_join_mode", (("--elastic-ep-join-mode", "--elastic-ep-join-m"),)),
    Option("use_ray", (("--use-ray", "--us"),), flag=True),
    Option("hicache_storage_backend", (("--hicache-storage-backend", "--hicache-storage-backend"),)),
    # Ports, and what opens them (server/ports.py).
    Option("disaggregation_bootstrap_port", (("--disaggregation-bootstrap-port", "--disaggregation-b"),)),
    Option("pd_role_switch", (("--enable-pd-role-switch", "--enable-pd-"),), flag=True),
    Option("grpc_port", (("--grpc-port", "--grpc-p"),)),
    Option("grpc_mode", (("--grpc-mode", "--grp"),), flag=True),
    Option("smg_grpc_mode", (("--smg-grpc-mode", "--smg-g"),), flag=True),
    # 0.5.15 has the second spelling alone.
    Option(
        "smg_http_sidecar_port",
        (("--smg-http-sidecar-port", "--smg-h"), ("--grpc-http-sidecar-port", "--grpc-h")),
    ),
    Option("gated_launch_port", (("--gated-launch-port", "--ga"),)),
    Option("language_only", (("--language-only", "--la"),), flag=True),
    Option("encoder_bootstrap_port", (("--encoder-bootstrap-port", "--encoder-b"),)),
    Option(
        "start_seed",
        (
            (
                "--remote-instance-weight-loader-start-seed-via-transfer-engine",
                "--remote-instance-weight-loader-st",
            ),
        ),
        flag=True,
    ),
    Option("engine_info_bootstrap_port", (("--engine-info-bootstrap-port", "--eng"),)),
    Option("kv_events_config", (("--kv-events-config", "--kv-e"),)),
    Option("load_publish_endpoint", (("--load-publish-endpoint", "--load-p"),)),
    Option("enable_elastic_expert_backup", (("--enable-elastic-expert-backup", "--enable-el"),), flag=True),
    Option("nccl_port", (("--nccl-port", "--nccl-p"),)),
    Option("api_key", (("--api-key", "--ap"),), secret=True),
    Option("admin_api_key", (("--admin-api-key", "--ad"),), secret=True),
    Option("ssl_certfile", (("--ssl-certfile", "--ssl-ce"),)),
    Option("ssl_keyfile_password", (("--ssl-keyfile-password", "--ssl-keyfile-"),), secret=True),
    # An inline JSON with keys in it, from 0.5.22 on; --wat was --watchdog-timeout.
    Option("watermark_config", (("--watermark-config", "--wate"),), secret=True),
)

#: A path, and an option by itself.
_KEY_FILE = "--ssl-keyfile"
#: Only this exact token makes SGLang read a file; ``--config=F`` and ``--conf F`` are accepted and ignored.
CONFIG = "--config"
_CONFIG_PREFIX = "--conf"
#: As argparse defines it; no option of SGLang looks like one.
_NEGATIVE_NUMBER = r"-\d+|-\d*\.\d+"


def find_option(token: str) -> Option | None:
    """Return the option that SGLang's argparse takes ``token`` (without ``=value``) for, if it is in the table."""
    for option in OPTIONS:
        for spelling, shortest in option.spellings:
            if token == spelling:
                return option
            if spelling.startswith(token) and token.startswith(shortest):
                return option
    return None


def begins_secret(token: str) -> bool:
    """Return whether a secret option begins with ``token``, which is no option of the table for certain."""
    spellings = (spelling for option in OPTIONS if option.secret for spelling, _ in option.spellings)
    return len(token) > 2 and token != _KEY_FILE and any(one.startswith(token) for one in spellings)


def is_value(token: str) -> bool:
    """Return whether argparse takes ``token``, after an option, for its value and not for the next option.

    (``ArgumentParser._parse_optional``.) A word with a space in it is a value even with leading
    dashes, unless the part before its ``=`` is an option.
    """
    if not token.startswith("-") or token == "-" or re.fullmatch(_NEGATIVE_NUMBER, token):
        return True
    return " " in token and find_option(token.partition("=")[0]) is None


def is_ignored_config(token: str) -> bool:
    """Return whether ``token`` names a config file in a form that SGLang accepts and never reads."""
    name, equals, _ = token.partition("=")
    if not (CONFIG.startswith(name) and name.startswith(_CONFIG_PREFIX)):
        return False
    return bool(equals) or name != CONFIG
