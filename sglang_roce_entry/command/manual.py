"""The pages that the command prints about itself: ``--help``, ``--version`` and ``--explain``."""

from __future__ import annotations

import platform
import sys

from sglang_roce_entry import __version__
from sglang_roce_entry.command.explain import explained
from sglang_roce_entry.command.settings import SETTINGS
from sglang_roce_entry.plan.settings import Invocation
from sglang_roce_entry.problems import EXIT_CODES

_HEAD = """\
sglang-roce-entry: prepare RoCE, NCCL and the LeaderWorkerSet group, then exec SGLang.

examples
  sglang-roce-entry --model-path /models/deepseek --trust-remote-code
      launch: the same arguments on leader and workers, in the container's args
  sglang-roce-entry --dry-run --model-path /models/deepseek
      show who this pod is, what will be used and why, and the command; nothing is run
  sglang-roce-entry --snapshot h20-roce --dry-run --model-path /models/deepseek
      the same on a laptop, from a recorded node (h20-roce, cx7-pod, or your own file)
  sglang-roce-entry --check
      something does not work: every known trap as one line, with what to do
  eval "$(sglang-roce-entry --print-env)"
      the environment alone, for debugging by hand
  sglang-roce-entry bash
      any other program in the prepared environment: no waiting, no refusing

usage
  sglang-roce-entry [OPTIONS] [--] SGLANG ARGUMENTS...
  sglang-roce-entry [OPTIONS] COMMAND [ARG...]
  Options count before the first argument that is not ours; from there on everything is SGLang's.

modes (print and exit)
  --dry-run[=text|json]      the whole plan
  --print-env[=shell|json]   the environment only
  --check[=text|json]        every known trap: ok, warn or fail, with evidence and remedy
  --probe startup|readiness|liveness [-- SGLANG ARGUMENTS]
                             for exec probes and HEALTHCHECK: 0 or 1, and one line why
  --save-snapshot FILE       record this node for a replay or a bug report (- for stdout)
      [--keep-identifiers]   with the MACs, GUIDs and GPU UUIDs, which it leaves out otherwise
  --version
  --help

options
  --snapshot FILE|NAME       a mode replays this recorded node instead of the host
  --policy FILE              settings as YAML (hca_wait: 30)
"""

_TAIL = """
Every option above but --snapshot and --policy is also a variable (--hca-wait: SGLANG_ROCE_HCA_WAIT) and a
key of the policy file (hca_wait). Precedence: flag, variable, policy, default. An explicit flag beats the
pod's NCCL_* variables; these, and NCCL's own configuration files, beat everything else.
"""


def page(invocation: Invocation) -> str:
    """Return the page that ``invocation`` asks for. Raises ``UsageError``."""
    if invocation.mode == "version":
        return version_text()
    return explained(invocation.mode_value) if invocation.mode == "explain" else help_text()


def help_text() -> str:
    """Return the manual: examples first, exit codes last."""
    settings = "\n".join(f"  {f'{setting.flag} {setting.metavar}':<37} {setting.summary}" for setting in SETTINGS)
    codes = "\n".join(f"  {code:<8} {meaning}" for code, meaning in EXIT_CODES)
    return f"{_HEAD}{settings}\n{_TAIL}\nexit codes\n{codes}\n"


def version_text() -> str:
    """Return the program's and the interpreter's version."""
    return f"sglang-roce-entry {__version__} (Python {platform.python_version()}, {sys.executable})\n"
