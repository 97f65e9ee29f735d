"""The HCAs of the KV transfer in SGLang's own option, by version and back-end, and the user's own value."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from sglang_roce_entry.fabric.consumers import sglang
from sglang_roce_entry.fabric.consumers.sglang import device_argument
from sglang_roce_entry.fabric.use import Use
from sglang_roce_entry.host.facts import Gpu, HostFacts
from sglang_roce_entry.problems import Problem
from sglang_roce_entry.server.arguments import UserArguments, read_arguments
from sglang_roce_entry.server.transfer import has_option, nixl_reads_option, read_use, reads_map

NAMES = ["mlx5_0", "mlx5_1"]
PER_GPU = {0: ("mlx5_0",), 1: ("mlx5_1",)}


@pytest.mark.parametrize(
    ("version", "reads"),
    [
        ("0.4.6.post5", False), ("0.5.3", False), ("0.5.5", False), ("0.5.5.post1", False), ("0.5.5.post3", True),
        ("0.5.6", True), ("0.5.8", True), ("0.5.8.post1", True), ("0.5.9", False), ("0.5.10", False),
        ("0.5.10.post1", False), ("0.5.12", False), ("0.5.13", True), ("0.5.13rc1", True), ("0.5.15", True),
        ("0.5.23", True), ("0.6.0", True), (None, False), ("unknown", False),
    ],
)  # fmt: skip
def test_versions_that_read_a_map(version: str | None, reads: bool) -> None:
    assert reads_map(version) is reads


@pytest.mark.parametrize(
    ("version", "reads"), [("0.5.22", False), ("0.5.23", True), ("0.6.0", True), (None, False)]
)
def test_versions_whose_nixl_reads_the_option(version: str | None, reads: bool) -> None:
    assert nixl_reads_option(version) is reads


def use_of(backend: str, version: str | None, *, reindexed: bool = False) -> Use:
    """Return what a launch of this release uses."""
    return Use(
        kv_backend=backend,
        reindexed=reindexed,
        sglang_version=version,
        has_option=has_option(version),
        reads_map=reads_map(version),
        nixl_reads_option=nixl_reads_option(version),
    )


def tokens(
    backend: str, version: str | None, names: list[str], per_gpu: Mapping[int, tuple[str, ...]]
) -> tuple[str, ...]:
    """Return the argument alone."""
    return device_argument(use_of(backend, version), names, per_gpu)[0]


def test_a_map_where_it_says_more_and_is_read() -> None:
    option, text = tokens("mooncake", "0.5.23", NAMES, PER_GPU)
    assert option == "--disaggregation-ib-device"
    assert json.loads(text) == {"0": "mlx5_0", "1": "mlx5_1"}
    assert " " not in text


@pytest.mark.parametrize(
    ("version", "per_gpu", "reindexed", "words"),
    [
        ("0.5.10", PER_GPU, False, "0.5.10 does not read a map"),
        (None, PER_GPU, False, "unknown version"),
        ("0.5.23", {}, False, "not known, or the same for all"),
        ("0.5.23", {0: ("mlx5_1", "mlx5_0")}, False, "not known, or the same for all"),
        ("0.5.23", PER_GPU, True, "SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS"),
    ],
)
def test_a_list_otherwise(
    version: str | None, per_gpu: dict[int, tuple[str, ...]], reindexed: bool, words: str
) -> None:
    argument, reason = device_argument(use_of("mooncake", version, reindexed=reindexed), NAMES, per_gpu)
    assert argument == ("--disaggregation-ib-device", "mlx5_0,mlx5_1")
    assert words in reason


def test_nothing_for_a_nixl_that_does_not_read_it() -> None:
    assert tokens("nixl", "0.5.22", NAMES, PER_GPU) == ()
    assert tokens("nixl", "0.5.23", NAMES, PER_GPU) != ()
    assert tokens("mooncake", "0.5.23", [], {}) == ()


def test_nothing_for_releases_without_the_option() -> None:
    assert tokens("mooncake", "0.4.5.post1", NAMES, {}) == ()
    assert tokens("mooncake", "0.4.5.post2", NAMES, {}) != ()


@pytest.mark.parametrize(
    ("argv", "use"),
    [
        ((), Use()),
        (("--disaggregation-mode", "null"), Use()),
        (("--disaggregation-mode", "prefill"), Use(kv_backend="mooncake", mooncake=True)),
        (("--disaggregation-m=decode", "--disaggregation-t", "nixl"), Use(kv_backend="nixl", nixl=True)),
        (("--disaggregation-mode", "decode", "--disaggregation-transfer-backend", "mori"), Use()),
        (("--moe-a2a-backend", "deepep"), Use(nvshmem=True)),
        (("--enable-deepep-moe",), Use(nvshmem=True)),
        (("--moe-a2a-backend", "mooncake"), Use(mooncake=True)),
        (("--elastic-ep-backend", "mooncake", "--mooncake-ib-device", "mlx5_0"), Use(mooncake=True)),
        (("--hicache-storage-backend", "mooncake"), Use(mooncake=True)),
        (("--hicache-storage-backend-extra-config", "mooncake"), Use()),
    ],
)
def test_what_the_arguments_ask_for(argv: tuple[str, ...], use: Use) -> None:
    found = read_use(read_arguments(argv), HostFacts(), (), {})
    assert (found.kv_backend, found.mooncake, found.nixl, found.nvshmem) == (
        use.kv_backend,
        use.mooncake,
        use.nixl,
        use.nvshmem,
    )


GIVEN = {
    "good": ("mlx5_0, mlx5_1", "0.5.23", None),
    "good map": ('{"0":"mlx5_0","1":"mlx5_1"}', "0.5.23", None),
    "unknown": ("mlx5_0,mlx5_7", "0.5.23", "names mlx5_7, which this node does not have"),
    "port": ("mlx5_0:1", "0.5.23", "has a port in mlx5_0:1"),
    "NCCL's exact mark": ("=mlx5_0", "0.5.23", "names =mlx5_0"),
    "empty list": (" , ", "0.5.23", "names no HCA"),
    "unusable": ("mlx5_2", "0.5.23", "mlx5_2, which cannot be used here: NO_OWN_GID"),
    "map too early": ('{"0":"mlx5_0","1":"mlx5_1"}', "0.5.10", "0.5.10 does not read"),
    "map without GPU 1": ('{"0":"mlx5_0"}', "0.5.23", "has no HCA for GPU 1"),
    "no JSON": ('{"0":mlx5_0}', "0.5.23", "is not JSON"),
    "empty map": ("{}", "0.5.23", "is not a JSON object of GPU numbers"),
    "map of words": ('{"gpu0":"mlx5_0"}', "0.5.23", "has 'gpu0'"),
    "map of lists": ('{"0":["mlx5_0"]}', "0.5.23", "keys are GPU numbers"),
    "file that is not there": ("/etc/ib.json", "0.5.23", "is a file that cannot be read"),
    "deep": ("{" * 100_000, "0.5.23", "is not JSON"),
}


def problems_of(
    user: UserArguments, version: str | None, devices: list[str], unusable: dict[str, str], *, gpus: int
) -> list[Problem]:
    """Return what is wrong with the HCAs that the user has named."""
    use = read_use(user, HostFacts(sglang_version=version), [Gpu(None)] * gpus, {})
    return [problem for named in use.named for problem in sglang.check_named(named, use, devices, unusable)]


@pytest.mark.parametrize("name", sorted(GIVEN))
@pytest.mark.parametrize("option", ["--disaggregation-ib-device", "--mooncake-ib-device"])
def test_what_the_user_names(name: str, option: str) -> None:
    text, version, words = GIVEN[name]

    def no_file(path: str) -> str:
        raise FileNotFoundError(path)

    user = read_arguments((f"{option}={text}",), no_file)
    problems = problems_of(user, version, [*NAMES, "mlx5_2"], {"mlx5_2": "NO_OWN_GID, empty"}, gpus=2)
    assert [one.code for one in problems] == (["IB_DEVICE"] if words else [])
    if words:
        assert words in problems[0].message
        assert option in problems[0].message
        assert problems[0].value
        assert len(problems[0].message) < 300


def test_a_map_in_a_file() -> None:
    user = read_arguments(("--disaggregation-ib-device", "/etc/ib.json"), lambda path: '{"0": "mlx5_9"}')
    (problem,) = problems_of(user, "0.5.23", NAMES, {}, gpus=1)
    assert "names mlx5_9" in problem.message
