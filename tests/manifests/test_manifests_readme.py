"""k8s/README.md says what k8s/ holds: paths, variants, and where every line of SGLang's guide went."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import yaml

from tests.manifests.manifest_set import K8S, parse, variants

README = (K8S / "README.md").read_text(encoding="utf-8")
MANIFEST = K8S / "roce-hostnetwork" / "shared-device-plugin" / "sglang.yaml"
# What the guide's two templates hold, by the word that a reader searches for.
GUIDE = [
    "replicas",
    "size",
    "restartPolicy",
    "leaderTemplate",
    "workerTemplate",
    "role",
    "dnsPolicy",
    "hostNetwork",
    "hostIPC",
    "image",
    "privileged",
    "IPC_LOCK",
    "NCCL_DEBUG",
    "NCCL_SOCKET_IFNAME",
    "NCCL_IB_HCA",
    "NCCL_SOCKET_NTHREADS",
    "NCCL_NSOCKS_PERTHREAD",
    "NCCL_IB_DISABLE",
    "NCCL_IB_GID_INDEX",
    "LWS_WORKER_INDEX",
    "command",
    "--model-path",
    "--mem-fraction-static",
    "--torch-compile-max-bs",
    "--max-running-requests",
    "--tp",
    "--dist-init-addr",
    "--nnodes",
    "--node-rank",
    "--trust-remote-code",
    "--host",
    "--port",
    "nvidia.com/gpu",
    "rdma/hca",
    "containerPort",
    "tcpSocket",
    "/dev/shm",
    "/work/models",
    "/dev/infiniband",
    "sglang-leader",
    "sglang-worker",
]


@dataclass(frozen=True)
class Row:
    """One row of the migration table."""

    guide: str
    here: str

    @property
    def words(self) -> list[str]:
        """Return the first word of every code span on the guide's side."""
        return [first_word(span) for span in re.findall(r"`([^`]+)`", self.guide)]


def first_word(span: str) -> str:
    """Return the key, option or path that a code span begins with."""
    return span.split(":", maxsplit=1)[0].split(maxsplit=1)[0]


def rows() -> list[Row]:
    """Return the migration table."""
    table = README[README.index("| In the guide |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!`)\|", line.strip("|"))] for line in table]
    return [Row(cell[0], cell[1]) for cell in cells]


def data() -> set[str]:
    """Return every key and value of the manifest, without its comments, and ``key: value`` pairs."""
    found: set[str] = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if set(node) == {"name", "value"}:
                found.add(f"{node['name']}: {node['value']}")
            for key, value in node.items():
                found.add(str(key))
                found.add(f"{key}: {yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}")
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)
        else:
            found.add(str(node))

    walk(parse(MANIFEST.read_text()))
    return found


def test_paths_exist() -> None:
    applied = re.findall(r"kubectl apply -f (\S+)", README)
    assert applied != []
    assert [path for path in applied if not (K8S / path).is_file()] == []


def test_every_variant_has_its_row() -> None:
    described = re.findall(r"^\|[^|]*\| `([^`]+)` \| `(-[fk]) [^`]+` \| [a-z]+ \|$", README, re.MULTILINE)
    assert {variant for variant, _how in described} == set(variants())
    for variant, how in described:
        plain = [path for path in (K8S / variant).glob("*.yaml") if path.name != "kustomization.yaml"]
        assert (how == "-f") == bool(plain), variant


def test_every_line_of_the_guide_has_a_row() -> None:
    named = {word for row in rows() for word in row.words}
    assert [word for word in GUIDE if word not in named] == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.guide[:40])
def test_the_row_is_true_of_the_manifest(row: Row) -> None:
    here = data()
    for span in re.findall(r"`([^`]+)`", row.here):
        if span in {"args", "args: [...]", "registry.example/sglang-roce-entry:TAG"}:
            assert "args" in here
        elif ": [" in span:  # a list, as YAML writes it
            assert span in here, span
        else:
            assert span.replace('"', "'") in here or span in here, span
    if row.here.startswith("the same"):
        assert [word for word in row.words if word not in here] == []
    if row.here == "gone":
        assert row.words != []
        assert [word for word in row.words if word in here] == []


def test_a_row_that_is_not_true_is_seen() -> None:
    with pytest.raises(AssertionError):
        test_the_row_is_true_of_the_manifest(Row("`hostNetwork: true`", "gone"))
    with pytest.raises(AssertionError):
        test_the_row_is_true_of_the_manifest(Row("`hostIPC: true`", "the same"))
    with pytest.raises(AssertionError):
        test_the_row_is_true_of_the_manifest(Row("-", "`NCCL_DEBUG: TRACE`"))
