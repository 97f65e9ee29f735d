"""The parts of the README that the program itself says. ``python -m tests.readme`` writes them anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sglang_roce_entry.command.settings import SETTINGS
from sglang_roce_entry.problems import EXIT_CODES
from tests.symptoms import table

README = Path(__file__).parent.parent / "README.md"


def _run(command: list[str], **variables: str) -> str:
    prefixes = ("LWS_", "SGLANG_", "NCCL_", "CUDA_", "NVIDIA_", "POD_", "HOST_IP")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", *command],
        capture_output=True, text=True, check=True, env={**environ, **variables},
    )  # fmt: skip
    return done.stdout


def _dry_run() -> str:
    command = ["--snapshot", "cx7-pod", "--dry-run", "--model-path", "/models/deepseek"]
    return f"```text\n{_run(command).rstrip()}\n```"


#: Of the thirty lines of a check, those that the README shows.
_SHOWN = ("versions", "nic", "hca", "gid", "mtu", "memlock", "variables", "fix:", "A launch")


def _check() -> str:
    done = _run(["--snapshot", "cx7-pod", "--check"], NCCL_IB_GID_INDEX="3")
    shown = []
    for line in done.splitlines():
        words = line.split(maxsplit=2)
        if line.startswith("A launch"):
            shown += ["...", "", line]
        elif not words and len(shown) < 4:
            shown.append("")  # behind the head
        elif words and (words[0] in _SHOWN or words[1] in _SHOWN):
            shown.append(line)
    return "```text\n" + "\n".join(shown) + "\n```"


def _settings() -> str:
    rows = [f"| `{one.flag[2:]}` | `{one.metavar.replace('|', ' ')}` | {one.summary} |" for one in SETTINGS]
    return "\n".join(["| setting | values | meaning (default) |", "|---|---|---|", *rows])


def _exit_codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES]
    return "\n".join(["| code | meaning |", "|---|---|", *rows])


def _benchmark() -> str:
    return (README.parent / "tests" / "benchmarks" / "startup.md").read_text(encoding="utf-8").rstrip()


BLOCKS = {
    "dry-run cx7-pod": _dry_run,
    "check cx7-pod": _check,
    "symptoms": table,
    "settings": _settings,
    "exit codes": _exit_codes,
    "benchmark": _benchmark,
}


def with_block(text: str, name: str, content: str) -> str:
    """Return the README with one block replaced."""
    before, mark, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not mark or not end:
        raise ValueError(f"the README has no block {name!r}")
    return f"{before}{mark}{content}\n{end}{after}"


def written() -> str:
    """Return the README with every block as the program says it now."""
    text = README.read_text(encoding="utf-8")
    for name, block in BLOCKS.items():
        text = with_block(text, name, block())
    return text


if __name__ == "__main__":
    README.write_text(written(), encoding="utf-8")
