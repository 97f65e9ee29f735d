"""The parts of the documents that the program itself prints. ``python -m tests.readme`` writes them anew."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from sglang_roce_entry.command.settings import SETTINGS
from sglang_roce_entry.problems import EXIT_CODES
from sglang_roce_entry.report.page.style import DRAWING
from tests.nccl.wheels import RELEASES as NCCL_RELEASES
from tests.sglang.releases import RELEASES as SGLANG_RELEASES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
#: What the README shows of a page: it can be drawn again anywhere, and is then the same.
PICTURE = ROOT / "tests" / "page" / "h20-roce.svg"

#: Of the dry run, the lines that the README shows, by what they contain.
SHOWN = (
    "worker 1 of 2",
    " interface ",
    "mlx5_7:1 ",
    "mlx5_0:1 ",
    "NCCL_IB_GID_INDEX=",
    "at index 5",
    "NCCL_IB_HCA=",
    "usable RoCE port",
    "at most 1800 s",
    "--node-rank",
)


def _run(command: list[str], **variables: str) -> str:
    prefixes = ("LWS_", "SGLANG_", "NCCL_", "CUDA_", "NVIDIA_", "POD_", "HOST_IP")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    done = subprocess.run(
        [sys.executable, "-m", "sglang_roce_entry", *command],
        capture_output=True, text=True, check=True, env={**environ, **variables},
    )  # fmt: skip
    return done.stdout


def _dry_run() -> str:
    lines = iter(_run(["--snapshot", "cx7-pod", "--dry-run", "--model-path", "/models/deepseek"]).splitlines())
    shown = [next((line for line in lines if part in line), None) for part in SHOWN]
    if None in shown:
        raise ValueError(f"the dry run has no line with {SHOWN[shown.index(None)]!r}, in this order")
    return "\n".join(["```text", *map(str, shown), "```"])


def _check() -> str:
    done = _run(["--snapshot", "cx7-pod", "--check"], NCCL_IB_GID_INDEX="3").splitlines()
    return "\n".join(["```text", *done[:12], "...", done[-1], "```"])


def _settings() -> str:
    rows = [f"| `{one.flag[2:]}` | `{one.metavar.replace('|', ' ')}` | {one.summary} |" for one in SETTINGS]
    return "\n".join(["| setting | values | meaning (default) |", "|---|---|---|", *rows])


def _exit_codes() -> str:
    rows = ["| {} | {} |".format(code, meaning.replace("|", "\\|")) for code, meaning in EXIT_CODES]
    return "\n".join(["| code | meaning |", "|---|---|", *rows])


def _tested_with() -> str:
    """Return one table row of the versions that the tests, and the classifiers of the package, name."""
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    schemas = (ROOT / "tests" / "manifests" / "test_schemas.py").read_text(encoding="utf-8")
    versions = {
        name: ", ".join(re.findall(r"\"v?(\d+\.\d+)", line))
        for name, line in re.findall(r"^(LWS_VERSIONS|KUBERNETES_VERSIONS) = (.*)$", schemas, re.MULTILINE)
    }
    columns = {
        "SGLang": f"{SGLANG_RELEASES[0].version} to {SGLANG_RELEASES[-1].version}",
        "NCCL": ", ".join(NCCL_RELEASES),
        "LeaderWorkerSet": versions["LWS_VERSIONS"],
        "Kubernetes": versions["KUBERNETES_VERSIONS"],
        "Python": f"{pythons[0]} to {pythons[-1]}",
        "libibverbs": "44",  # Debian 12's, in the guest of tests/kernel
    }
    rows = [columns.keys(), ["---"] * len(columns), columns.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _benchmark() -> str:
    return (ROOT / "tests" / "benchmarks" / "startup.md").read_text(encoding="utf-8").rstrip()


def drawn() -> str:
    """Return the drawing of the page of ``h20-roce`` as a picture of its own."""
    page = _run(["--snapshot", "h20-roce", "--dry-run=html", "--model-path", "/models/deepseek"])
    found = re.search(r'<svg class="drawing wide"(.*?)</svg>', page, re.DOTALL)
    if found is None:
        raise ValueError("the page has no drawing")
    attributes, _, inside = found[1].partition(">")
    sheet = '<rect class="sheet" width="100%" height="100%"/>'
    style = f"<style>{DRAWING}.sheet{{fill:var(--page)}}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing"{attributes}>{style}{sheet}{inside}</svg>\n'


#: By document: each block's name and what writes it.
BLOCKS = {
    README: {"dry-run cx7-pod": _dry_run, "tested with": _tested_with},
    ROOT / "docker" / "README.md": {"settings": _settings, "exit codes": _exit_codes},
    ROOT / "k8s" / "README.md": {"check cx7-pod": _check},
    ROOT / "tests" / "benchmarks" / "README.md": {"benchmark": _benchmark},
}


def docker_run(rank: int) -> tuple[dict[str, str], list[str]]:
    """Return the variables and SGLang's arguments of the README's ``docker run`` on one of its two machines."""
    found = re.search(
        r"^```sh\n.*?docker run(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    if found is None:
        raise ValueError("the README shows no docker run")
    words = shlex.split(found[1].replace("\\\n", " ").replace("$rank", str(rank)))
    variables = dict(words[at + 1].split("=") for at, word in enumerate(words) if word == "-e")
    return variables, words[words.index("registry.example/sglang-roce-entry:TAG") + 1 :]


def with_block(text: str, name: str, content: str) -> str:
    """Return the document with one block replaced."""
    before, mark, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not mark or not end:
        raise ValueError(f"the document has no block {name!r}")
    return f"{before}{mark}{content}\n{end}{after}"


def written(document: Path) -> str:
    """Return the document with every block as the program prints it now."""
    text = document.read_text(encoding="utf-8")
    for name, block in BLOCKS[document].items():
        text = with_block(text, name, block())
    return text


if __name__ == "__main__":
    for path in BLOCKS:
        path.write_text(written(path), encoding="utf-8")
    PICTURE.write_text(drawn(), encoding="utf-8")
