"""The pages that the command prints about itself: ``--help``, ``--version`` and ``--explain``."""

from __future__ import annotations

import platform
import sys

from sglang_roce_entry import __version__
from sglang_roce_entry.command.explain import explained
from sglang_roce_entry.command.settings import SETTINGS
from sglang_roce_entry.invocation import Invocation
from sglang_roce_entry.problems import EXIT_CODES

_HEAD = """\
sglang-roce-entry: find the RoCE ports and the place in the group, set NCCL accordingly, then exec SGLang.

examples
  sglang-roce-entry --model-path /models/deepseek --trust-remote-code
      launch: the same arguments on leader and workers, in the container's args
  sglang-roce-entry --dry-run --model-path /models/deepseek
      show who this pod is, what will be used and why, and the command; nothing is run
  sglang-roce-entry --check
      report each known trap on one line, with what to do about it
  sglang-roce-entry --rehearse --model-path /models/deepseek
      on every node of a group: who is missing, what differs, and the exit code; SGLang is not started
  sglang-roce-entry --explain NO_OWN_GID
      what a code of the log means, how to see it, what to do; without a code, all of them
  sglang-roce-entry --snapshot h20-roce --dry-run --model-path /models/deepseek
      the same on a laptop, for a recorded node (h20-roce, cx7-pod, gb10, or a file of your own)
  NCCL_IB_GID_INDEX=3 sglang-roce-entry --snapshot node.tar.gz --dry-run --model-path /models/deepseek
      what if? Variables of this shell override the recorded ones, and the log names them
  eval "$(sglang-roce-entry --print-env)"
      the environment alone, for debugging by hand
  sglang-roce-entry bash
      any other program in the prepared environment: never waits, never refuses

usage
  sglang-roce-entry [OPTIONS] [--] SGLANG ARGUMENTS...
  sglang-roce-entry [OPTIONS] COMMAND [ARG...]
  Options count before the first argument that is not one of these; everything from there on is SGLang's.

modes (print and exit)
  --dry-run[=text|json|html] the whole plan; html: a page with a drawing of the node, for a browser
  --print-env[=shell|json]   the environment only
  --check[=text|json]        each known trap: ok, warn or fail, with evidence and remedy
  --rehearse[=text|json|html]
                             meet the launchers of the whole group, as a launch would, and compare all nodes; waits
                             for them (--wait-deadline), ends with the launch's exit code, SGLang is not started
      [--save-meeting FILE]  beside it: cards and results in a file; the leader's (index 0) has those of all nodes
      [--meeting-file FILE]  instead of meeting: the same comparison of a saved meeting, on any machine
  --probe startup|readiness|liveness|ranks[,...] [-- SGLANG ARGUMENTS]
                             for exec probes and HEALTHCHECK: 0 or 1, and one line that gives the reason;
                             ranks: which ones NCCL considers dead, by its RAS in this pod
  --explain [CODE]           what a problem, reason or exit code means, and what to do
  --save-snapshot FILE       record this node for a replay or a bug report (- for stdout)
      [--keep-identifiers]   with MACs, GUIDs and GPU UUIDs, which are left out otherwise
  --version
  --help

options
  --snapshot FILE|NAME       replay this recorded node instead of the host (modes only)
  --policy FILE              settings as YAML (hca_wait: 30)
"""

_TAIL = """
Each option above but --snapshot and --policy is also a variable (--hca-wait: SGLANG_ROCE_HCA_WAIT) and a
key of the policy file (hca_wait). Precedence: flag, variable, policy, default. An explicit flag beats the
pod's NCCL_* variables; these, and NCCL's own configuration files, beat everything else.

words
  port         of an HCA (mlx5_0:1), unless its purpose is named: rendezvous port, HTTP port (TCP)
  rail         a used port and its network; equal rails of all nodes reach each other
  own GID      a RoCE v2 GID whose address is configured in this pod
  foreign GID  one that this pod sees but does not have: the node's, or another pod's
  group        the pods that run one model together, as LeaderWorkerSet numbers them; 0 is the leader
  policy file  the settings of this program as a YAML file (--policy)
  bare word    a first argument without dashes: that program is run instead of SGLang
  withheld     a variable that is left unset on purpose; the reason is shown
  linger       the pause before a fatal exit, in which the log of the pod can still be read
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
